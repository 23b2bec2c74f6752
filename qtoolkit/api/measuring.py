"""Verbs that measure: quality, speed, memory, this machine."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from qtoolkit.api.making import load
from qtoolkit.errors import ConfigError
from qtoolkit.evaluation.tasks import Task
from qtoolkit.evaluation.tasks import run_tasks as ask_tasks
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.comparing import compare_models
from qtoolkit.jobs.evaluating import evaluate_model
from qtoolkit.measure import examine, explained, memory_footprint
from qtoolkit.methods import available_methods, get_method
from qtoolkit.models import find_tokenizer, open_checkpoint
from qtoolkit.planning import refuse_below_one, resolve_device
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import (
    Comparison,
    Doctor,
    MemoryReport,
    OnProgress,
    QualityReport,
    TaskReport,
    ignore_progress,
)
from qtoolkit.tokens import verb

Model = Any


@verb
def evaluate(
    model: Model,
    *,
    base: Model | None = None,
    text: Any = "wikitext2",
    seq_len: int = 512,
    num_tokens: int = 16384,
    stride: int | None = None,
    noise_floor: bool = False,
    speed: bool = True,
    device: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
    on_progress: OnProgress | None = None,
) -> QualityReport:
    """Measure what a model lost: perplexity on a text, and how far its predictions moved from its base's.

    A base in full precision that is named is read block by block, before the model is loaded: neither is in memory with
    the other, and of the base no logits are kept.

    Args:
        model: a `QuantizedModel`, a loaded `PreTrainedModel`, a folder, a Hub id or a `.gguf` file; or an object whose
            `logits(input_ids: int64[1, seq_len])` gives [1, seq_len, vocabulary].
        base: what it was made from; takes the same. None for perplexity alone.
        text: "wikitext2" and "c4" (the split that nothing is calibrated on), "self" (text that the base writes), a file
            (.txt, .jsonl, .parquet), a list of texts, or a `datasets.Dataset`.
        seq_len: tokens of a window.
        num_tokens: tokens of the text to take, from its beginning.
        stride: tokens from one window's beginning to the next; None for windows that do not overlap.
        noise_floor: measure too what rounding alone does: the base in its own type against the base in float32.
        speed: measure too how fast the model reads and writes, where it is loaded.
        device, revision, token, tokenizer: as for `quantize`; the revision is the model's.
        on_progress: called with a `ProgressEvent` after each block and window.

    Raises:
        ConfigError: a text that is too short, or that the model was calibrated on; another vocabulary than the base's.
        CheckpointError: a model computes NaN.
        QToolkitError: as `load`.
    """
    return evaluate_model(
        model,
        base=base,
        text=text,
        options={"seq_len": seq_len, "num_tokens": num_tokens, "stride": stride},
        device=resolve_device(device),
        sources={"revision": revision, "token": token, "tokenizer": tokenizer},
        on_progress=on_progress or ignore_progress,
        noise_floor=noise_floor,
        speed=speed,
    )


@verb
def compare(
    model: Model,
    configs: Sequence[Any],
    *,
    text: Any = "wikitext2",
    seq_len: int = 512,
    num_tokens: int = 16384,
    stride: int | None = None,
    prompts: Sequence[str] = (),
    memory: int | str | None = None,
    noise_floor: bool = False,
    executor: Executor | None = None,
    retries: int = 2,
    output: str | PathLike[str] | None = None,
    resume: bool = True,
    device: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Quantize a model in several ways, measure each on one text, and put them side by side.

    The model's own pass over the text is made once. Of the forms one at a time is in memory. One that fails gets a line
    with its error, and the others go on.

    Args:
        model: as for `quantize`; a loaded one only without an executor.
        configs: what `quantize` takes, None for the model as it is, and folders of checkpoints or `.gguf` files.
        text, seq_len, num_tokens, stride, noise_floor: as for `evaluate`.
        prompts: texts that each continues by 40 tokens.
        memory: bytes that using one may take, or text such as "8 GB": `best` is chosen among those.
        executor: a `concurrent.futures.Executor` with one job for each config: a `ProcessPoolExecutor`, Dask's
            `client.get_executor()`. Workers read the model by its name, with the Hub token of their own machine.
        retries: how often a job is begun again when its worker is lost.
        output: a folder that keeps each result the moment it is there; None for one in the user's cache.
        resume: take the results of an earlier call that was the same in all that they depend on.
        device, revision, token, tokenizer, on_progress: as for `quantize`.

    Raises:
        QToolkitError: before work starts where that can be; as `quantize` and `evaluate`.
    """
    return compare_models(
        model,
        configs,
        text=text,
        options={"seq_len": seq_len, "num_tokens": num_tokens, "stride": stride},
        prompts=prompts,
        memory=memory,
        noise_floor=noise_floor,
        executor=executor,
        retries=retries,
        output=output,
        resume=resume,
        device=device,
        sources={"revision": revision, "token": token, "tokenizer": tokenizer},
        on_progress=on_progress or ignore_progress,
    )


@verb
@explained("the tasks", "give a smaller batch_size")
def run_tasks(
    model: Model,
    tasks: Task | Sequence[Task],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 8,
    tokenizer: Any = None,
) -> TaskReport:
    """Ask a model the questions of benchmark tasks (hellaswag, arc_easy, mmlu, ...) through EleutherAI's lm-eval.

    The model, its tokenizer, random states, the environment and logging are left as they were. lm-eval draws progress
    bars of its own, and downloads a task's questions from the Hub.

    Args:
        model: a `QuantizedModel`, a loaded `PreTrainedModel`, or what `load` reads.
        tasks: names of lm-eval's tasks, groups or tags, or folders of YAML tasks ("./my_tasks"), of which all are run.
            A YAML file may name Python functions beside it, which run: take folders that you trust.
        limit: questions of each task, the first ones; None for all. For a first look: few questions tell little.
        num_fewshot: solved examples before each question; None for what each task says.
        batch_size: sequences that the model reads at once.
        tokenizer: as for `quantize`.

    Returns:
        Each metric of each task with its standard error, the number of questions and the task's version.

    Raises:
        QToolkitError: no tokenizer, no such task, one that cannot be loaded or run here; before the model is asked.
    """
    refuse_below_one(batch_size=batch_size, **({} if limit is None else {"limit": limit}))
    if isinstance(model, str | PathLike):
        # A plain model that is loaded knows neither its name nor its tokenizer.
        checkpoint = open_checkpoint(
            model, revision=None, token=None, tokenizer=tokenizer, on_progress=ignore_progress, quantized=True
        )
        name, tokenizer = checkpoint.name, checkpoint.tokenizer
        model = load(model, tokenizer=tokenizer)
    else:
        name = getattr(model, "name_or_path", "") or type(model).__name__
    if isinstance(model, QuantizedModel):
        name, model, tokenizer = model.name, model.model, tokenizer or model.tokenizer
    if tokenizer is None:
        tokenizer = find_tokenizer(model.name_or_path)
    options: dict[str, Any] = {"limit": limit, "num_fewshot": num_fewshot, "batch_size": batch_size}
    with quiet_layers():
        return ask_tasks(model, tokenizer, tasks, name=name, **options)


def measure_memory(model: Model) -> MemoryReport:
    """Measure a model in memory: every tensor that stays there, scales and tables included, shared ones once.

    Args:
        model: a `QuantizedModel`, or any torch module; a module's "before" is itself.
    """
    if isinstance(model, QuantizedModel):
        return replace(model.memory, footprint_after=memory_footprint(model.model))
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"measure_memory takes a model, got {type(model).__name__}: load one with qt.load")
    footprint = memory_footprint(model)
    return MemoryReport(sum(parameter.numel() for parameter in model.parameters()), footprint, footprint)


@explained("examining this machine", "free some, or raise that limit")
def doctor() -> Doctor:
    """Versions, devices, free memory and disk, and which methods run here: what one pastes into a bug report."""
    return examine({name: get_method(name).requires for name in available_methods()})
