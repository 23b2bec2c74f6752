"""Run benchmark tasks (hellaswag, arc_easy, mmlu, ...) through EleutherAI's lm-eval, as leaderboards do."""

import copy
import difflib
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.errors import ConfigError, SourceError, oneline
from qtoolkit.files import path_of
from qtoolkit.models.eval_mode import eval_mode
from qtoolkit.optional import optional
from qtoolkit.records import TaskMetric, TaskReport
from qtoolkit.texts.calibration_text import refuse_foreign

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Task = str | os.PathLike[str]

# lm-eval's own seeds, so that shuffles and solved examples are the same as in other people's runs.
_PYTHON_SEED = 0
_SEED = 1234
# lm-eval's default of 100,000 takes minutes, and changes only the third digit of a standard error.
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
    """Ask a model the questions of benchmark tasks, and score its answers as lm-eval does.

    A question with choices is answered by the choice that the model finds likeliest after the question: the one with
    the largest sum of log-probabilities of its tokens (acc), or the largest sum for each byte of text (acc_norm).

    The model, its tokenizer, random states, the environment and logging are restored afterwards.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        tasks: names of lm-eval's tasks, groups or tags, or folders of YAML tasks, all of which are run.
        name: the model's name in the report.
        limit: questions of each task, the first ones; None for all.
        num_fewshot: solved examples before each question; None for each task's own number.
        batch_size: sequences that the model reads at once.

    Raises:
        ConfigError: no tokenizer, or one of another model; no such task, one named twice, or one that cannot be run.
        SourceError: a task's file or data cannot be read.
        MissingDependencyError: lm-eval is not installed.
    """
    if not callable(tokenizer):
        raise ConfigError("tasks are read with the model's tokenizer, and there is none: give tokenizer=")
    tasks = [tasks] if isinstance(tasks, str | os.PathLike) else list(tasks)
    if not tasks:
        raise ConfigError("tasks names no task: give names such as 'arc_easy', or a folder of YAML tasks")
    started = time.monotonic()
    with _restored(), eval_mode(model):
        lm_eval = optional("lm_eval", "run_tasks")
        loaded = _find(tasks)
        notes = _set_examples(loaded["tasks"], num_fewshot)
        harness = optional("lm_eval.models.huggingface", "run_tasks").HFLM(
            pretrained=model,
            # A copy, since lm-eval adds a padding token to a tokenizer without one.
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=batch_size,
        )
        with _known_tokens(model):
            results = lm_eval.evaluate(
                lm=harness, task_dict=loaded, limit=limit, bootstrap_iters=_BOOTSTRAPS, log_samples=False
            )
    metrics = tuple(metric for task in results["results"] for metric in _metrics(task, results))
    return TaskReport(name, metrics, lm_eval.__version__, time.monotonic() - started, tuple(notes))


@contextmanager
def _known_tokens(model: Any) -> Iterator[None]:
    """Refuse tokens that the model has no embedding for; looking one up would disable the GPU for the process."""
    embeddings = model.get_input_embeddings()

    def check(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        refuse_foreign(inputs[0], len(module.weight))

    handle = embeddings.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _find(tasks: list[Task]) -> dict[str, dict[str, Any]]:
    """Load the requested tasks and groups with their data: "tasks" and "groups" -> name -> object."""
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}}
    for manager, names in _requested(tasks):
        parts = [_load(manager, name) for name in names]
        new = {name: task for part in parts for name, task in part["tasks"].items()}
        twice = loaded["tasks"].keys() & new.keys()
        if twice:
            raise ConfigError(f"the task {min(twice)!r} is named twice: leave one out, or the group that holds it")
        loaded["tasks"] |= new
        for part in parts:
            loaded["groups"] |= part["groups"]
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise ConfigError(f"the task {name!r} runs code that the model writes: run it with lm-eval, in a sandbox")
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError(f"the task {name!r} asks about images: run_tasks runs tasks of text alone")
    return loaded


def _requested(tasks: list[Task]) -> Iterator[tuple[Any, list[str]]]:
    """Yield lm-eval's managers with the names to load from them: all of a folder at once, others one by one."""
    make_manager = optional("lm_eval.tasks", "run_tasks").TaskManager
    for folder in (path_of(task, "tasks") for task in tasks if _is_path(task)):
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: name one with lm-eval's YAML tasks, or a task by its name")
        manager = make_manager(include_path=str(folder), include_defaults=False)
        if not manager.all_subtasks:
            raise ConfigError(f"{folder} holds no task: put a YAML file with `task: NAME` there, as lm-eval describes")
        yield manager, [*manager.all_subtasks, *manager.all_groups]
    names = [str(task) for task in tasks if not _is_path(task)]
    # It takes seconds to read lm-eval's thousands of files, which are not needed for a folder.
    if not names:
        return
    manager = make_manager()
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3) or ["hellaswag", "arc_easy"]
            raise ConfigError(
                f"lm-eval has no task {name!r}: the nearest are {', '.join(near)}; a folder is named as './FOLDER'"
            )
    yield from ((manager, [name]) for name in names)


def _is_path(task: Task) -> bool:
    """Check whether a task is a folder: a path object, or text with a slash, which no task's name has."""
    return isinstance(task, os.PathLike) or "/" in task or os.sep in task


def _load(manager: Any, name: str) -> dict[str, dict[str, Any]]:
    """Load a task or a group by its name, in the form of `_find`."""
    try:
        loaded: dict[str, dict[str, Any]] = manager.load([name])
    except Exception as error:  # a task's file may hold any error, and its data come from any source
        way = "mend its file, or go online if its data is on the Hub"
        raise SourceError(f"the task {name!r} cannot be loaded ({oneline(error)}): {way}") from error
    return loaded


def _set_examples(tasks: Mapping[str, Any], num_fewshot: int | None) -> list[str]:
    """Set the solved examples before each question, chosen by a fixed seed; returns notes on tasks that take none."""
    notes = []
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        # As lm-eval: a task whose file says 0 is not meant to have examples.
        fixed = own == 0 and bool(num_fewshot)
        if fixed:
            notes.append(f"{name} is asked without examples instead of {num_fewshot}: its file says num_fewshot 0")
        task.set_config(key="num_fewshot", value=own or 0 if fixed or num_fewshot is None else num_fewshot)
        task.set_fewshot_seed(seed=_SEED)
    return notes


def _metrics(task: str, results: Mapping[str, Any]) -> Iterator[TaskMetric]:
    """Yield the metrics of a task from lm-eval's results, which hold "acc,none" beside "acc_stderr,none"."""
    values = results["results"][task]
    for key, value in values.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        error = values.get(f"{metric}_stderr,{filter_name}")
        version = results["versions"].get(task)
        yield TaskMetric(
            task=task,
            metric=metric,
            filter=filter_name,
            value=float(value),
            # lm-eval writes a text where there is none.
            standard_error=None if error is None or isinstance(error, str) else float(error),
            num_samples=int(values["sample_len"]),
            num_fewshot=int(results["n-shot"].get(task, 0)),
            version="" if version is None else str(version),
            higher_is_better=results["higher_is_better"].get(task, {}).get(metric),
        )


@contextmanager
def _restored() -> Iterator[None]:
    """Set seeds as lm-eval does and silence it; restore random states, environment and log level afterwards."""
    import numpy as np

    environment = dict(os.environ)
    # Otherwise lm-eval forks this process for the bootstrap, with all of its memory.
    os.environ["DISABLE_MULTIPROC"] = "1"
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
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
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
