"""Benchmark tasks (hellaswag, arc_easy, mmlu, ...) through EleutherAI's lm-eval, the harness that leaderboards use."""

import copy
import difflib
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.errors import ConfigError, SourceError, oneline
from qtoolkit.files import path_of
from qtoolkit.optional import optional
from qtoolkit.records import TaskMetric, TaskReport
from qtoolkit.texts.calibration_text import refuse_foreign

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Task = str | os.PathLike[str]

# lm-eval's own, so that shuffles and solved examples are those of everybody's runs.
_PYTHON_SEED, _SEED = 0, 1234
# lm-eval's 100,000 take minutes, and change the third digit of a standard error.
_BOOTSTRAPS = 1000


def run_tasks(
    model: "PreTrainedModel",
    tokenizer: Any,
    tasks: Task | Sequence[Task],
    *,
    name: str,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
) -> TaskReport:
    """Ask a model the questions of benchmark tasks, and judge its answers as lm-eval does.

    A question with choices is answered by the choice that the model finds likeliest after the question: the one with
    the largest sum of log-probabilities of its tokens (acc), or the largest sum for each byte of text (acc_norm).

    The model, its tokenizer, random states, the environment and logging are left as they were.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        tasks: names of lm-eval's tasks, groups or tags, or folders of YAML tasks, of which all are run.
        name: what the report calls the model.
        limit: questions of each task, the first ones; None for all.
        num_fewshot: solved examples before each question; None for what each task says.
        batch_size: sequences that the model reads at once.

    Raises:
        ConfigError: no tokenizer, or one of another model; no such task, one named twice, or one that cannot be run.
        SourceError: a task's file or data cannot be read.
        MissingDependencyError: lm-eval is not installed.
    """
    if not callable(tokenizer):
        raise ConfigError("tasks are read with the model's tokenizer, and there is none: give tokenizer=")
    wanted = [tasks] if isinstance(tasks, str | os.PathLike) else list(tasks)
    if not wanted:
        raise ConfigError("tasks names no task: give names such as 'arc_easy', or a folder of YAML tasks")
    started = time.monotonic()
    with _as_it_was(model):
        lm_eval = optional("lm_eval", "run_tasks")
        found = _find(wanted)
        notes = _set_examples(found["tasks"], num_fewshot)
        # A copy, since a tokenizer without a padding token is given one.
        options = {"tokenizer": copy.deepcopy(tokenizer), "backend": "causal", "batch_size": batch_size}
        harness = optional("lm_eval.models.huggingface", "run_tasks").HFLM(pretrained=model, **options)
        with _known_tokens(model):
            results = lm_eval.evaluate(
                lm=harness, task_dict=found, limit=limit, bootstrap_iters=_BOOTSTRAPS, log_samples=False
            )
    metrics = tuple(metric for task in results["results"] for metric in _metrics(task, results))
    return TaskReport(name, metrics, lm_eval.__version__, time.monotonic() - started, tuple(notes))


@contextmanager
def _known_tokens(model: Any) -> Iterator[None]:
    """Refuse tokens that the model has no embedding for: on a GPU, looking for one ends all work there."""
    embeddings = model.get_input_embeddings()

    def check(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        refuse_foreign(inputs[0], len(module.weight))

    handle = embeddings.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _find(tasks: list[Task]) -> dict[str, dict[str, Any]]:
    """The tasks and groups asked for, with their data, by name."""
    folders = [path_of(task, "tasks") for task in tasks if _is_path(task)]
    names = [str(task) for task in tasks if not _is_path(task)]
    found: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}}
    # lm-eval reads its thousands of files in seconds; a folder needs none of them.
    for part in [*(_from_folder(folder) for folder in folders), *(_from_library(names) if names else ())]:
        twice = found["tasks"].keys() & part["tasks"].keys()
        if twice:
            raise ConfigError(f"the task {min(twice)!r} is named twice: leave one out, or the group that holds it")
        for kind, named in part.items():
            found[kind] |= named
    for name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"the task {name!r} runs code that the model writes: run it with lm-eval, in a sandbox")
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"the task {name!r} asks about images: run_tasks runs tasks of text alone")
    return found


def _is_path(task: Task) -> bool:
    """A folder is a path object, or text with a slash, which no task's name has."""
    return isinstance(task, os.PathLike) or "/" in task or os.sep in task


def _from_folder(folder: Path) -> dict[str, dict[str, Any]]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: name one with lm-eval's YAML tasks, or a task by its name")
    manager = optional("lm_eval.tasks", "run_tasks").TaskManager(include_path=str(folder), include_defaults=False)
    if not manager.all_subtasks:
        raise ConfigError(f"{folder} holds no task: put a YAML file with `task: NAME` there, as lm-eval describes")
    found: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}}
    for name in [*manager.all_subtasks, *manager.all_groups]:
        for kind, named in _load(manager, name).items():
            found[kind] |= named
    return found


def _from_library(names: list[str]) -> Iterator[dict[str, dict[str, Any]]]:
    """Tasks that come with lm-eval, each loaded when the ones before it are checked."""
    manager = optional("lm_eval.tasks", "run_tasks").TaskManager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3) or ["hellaswag", "arc_easy"]
            raise ConfigError(
                f"lm-eval has no task {name!r}: the nearest are {', '.join(near)}; a folder is named as './FOLDER'"
            )
    return (_load(manager, name) for name in names)


def _load(manager: Any, name: str) -> dict[str, dict[str, Any]]:
    try:
        loaded = manager.load([name])
    except Exception as error:  # a task's file may be wrong in any way, and its data come from anywhere
        way = "mend its file, or go online if its data is on the Hub"
        raise SourceError(f"the task {name!r} cannot be loaded ({oneline(error)}): {way}") from error
    return {"tasks": loaded["tasks"], "groups": loaded["groups"]}


def _set_examples(tasks: Mapping[str, Any], num_fewshot: int | None) -> list[str]:
    """Solved examples before each question, the same for everybody; returns where `num_fewshot` does not hold."""
    notes = []
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        # As lm-eval: a task that says 0 is not made for examples.
        fixed = own == 0 and bool(num_fewshot)
        if fixed:
            notes.append(f"{name} is asked without examples instead of {num_fewshot}: its file says num_fewshot 0")
        task.set_config(key="num_fewshot", value=own or 0 if fixed or num_fewshot is None else num_fewshot)
        task.set_fewshot_seed(seed=_SEED)
    return notes


def _metrics(task: str, results: Mapping[str, Any]) -> Iterator[TaskMetric]:
    """The metrics of a task as lm-eval has them: "acc,none" beside "acc_stderr,none"."""
    values = results["results"][task]
    for key, value in values.items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{kept}")
        version = results["versions"].get(task)
        yield TaskMetric(
            task=task,
            metric=metric,
            filter=kept,
            value=float(value),
            # Text where there is none.
            standard_error=None if error is None or isinstance(error, str) else float(error),
            num_samples=int(values["sample_len"]),
            num_fewshot=int(results["n-shot"].get(task, 0)),
            version="" if version is None else str(version),
            higher_is_better=results["higher_is_better"].get(task, {}).get(metric),
        )


@contextmanager
def _as_it_was(model: "PreTrainedModel") -> Iterator[None]:
    """What lm-eval changes, put back afterwards: random states, modes of the modules, the environment, its notices."""
    import numpy as np

    environment = dict(os.environ)
    # Otherwise it forks this process for the bootstrap, with all that it holds.
    os.environ["DISABLE_MULTIPROC"] = "1"
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    training = [module for module in model.modules() if module.training]
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=gpus):
            random.seed(_PYTHON_SEED)
            np.random.seed(_SEED)  # noqa: NPY002
            torch.manual_seed(_SEED)
            yield
    finally:
        logger.setLevel(level)
        for module in training:
            module.training = True
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
