"""The verbs. Each wires rooms together in a few lines; what they do is in the rooms."""

import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.jobs.comparing import compare_models
from qtoolkit.jobs.evaluating import evaluate_model
from qtoolkit.jobs.loading import load_model
from qtoolkit.jobs.quantizing import quantize_model, refuse_quantized
from qtoolkit.measure import examine, measure_peak, measure_speed, memory_footprint, resident_memory, this_machine
from qtoolkit.methods import MethodConfig, available_methods, get_method, resolve_config
from qtoolkit.planning import find_profile, plan_with_advice, refuse_below_one, resolve_device
from qtoolkit.planning import recommend as find_best
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import (
    Comparison,
    Doctor,
    Machine,
    MemoryReport,
    OnProgress,
    Plan,
    QualityReport,
    Recommendation,
    Speed,
    ignore_progress,
)
from qtoolkit.source import open_checkpoint
from qtoolkit.stream import check_output

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "compare",
    "doctor",
    "evaluate",
    "load",
    "measure_memory",
    "measure_peak",
    "plan",
    "quantize",
    "recommend",
]

Model = Any


@contextmanager
def _forgetting() -> Iterator[None]:
    """Let an error pass without what its frames hold: a notebook keeps the last one, and with it a half-made model."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def plan(
    model: Model,
    config: MethodConfig | str | Any,
    *,
    device: str = "auto",
    output: str | PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
    machine: str | Machine | None = None,
    context: int = 4096,
    batch_size: int = 1,
) -> Plan:
    """Say what `quantize` would do to each layer, what each phase needs, and whether it fits; no weight is read.

    Of a Hub model config and headers are downloaded, some MB at most, and no weight.

    Args:
        model: a Hub id, a folder, a `.gguf` file, a loaded `PreTrainedModel`, or a transformers config alone.
        config: as for `quantize`.
        device: where the result would live.
        output: the folder that would be made; None for one in the current folder.
        revision, token, tokenizer: as for `quantize`.
        machine: a profile ("t4", "a100-80", "cpu-12gb", ...) or a `Machine` to plan for; None for this one, whose speed
            is measured once (two seconds).
        context, batch_size: tokens and sequences for which using the result is planned.

    Raises:
        QToolkitError: what `quantize` would refuse before work starts, too little memory and disk excepted.
    """
    refuse_quantized(model)
    refuse_below_one(context=context, batch_size=batch_size)
    settings = resolve_config(config)
    folder = Path(output or "output").expanduser().absolute()
    if output is not None:
        check_output(folder, overwrite=True)
    place = find_profile(machine) if isinstance(machine, str) else machine
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        token=token,
        tokenizer=tokenizer,
        on_progress=ignore_progress,
        headers_only=True,
    )
    target = resolve_device(device, place)
    # Of a GPU no speed is measured.
    here = place or this_machine(folder, measure_speed(folder) if target == "cpu" else Speed())
    options: dict[str, Any] = {"context": context, "batch_size": batch_size}
    return plan_with_advice(checkpoint, settings, target, here, rss=resident_memory(), **options)[1]


def recommend(
    model: Model | list[Model],
    *,
    memory: int | str | None = None,
    goal: str = "quality",
    device: str = "auto",
    machine: str | Machine | None = None,
    context: int = 4096,
    revision: str | None = None,
    token: str | None = None,
) -> Recommendation:
    """Say which model in which form to take for a memory that one has; no weight is read or downloaded.

    Args:
        model: what `plan` takes, or a list of such to be compared: a larger one quantized against a smaller one as it
            is.
        memory: bytes that using it may take, or text such as "8 GB"; None for what the machine has.
        goal: "quality", "size" or "speed".
        device, machine, context, revision, token: as for `plan`.

    Raises:
        QToolkitError: as `plan`.
    """
    refuse_below_one(context=context)
    place = find_profile(machine) if isinstance(machine, str) else machine
    models = model if isinstance(model, list | tuple) else [model]
    for one in models:
        refuse_quantized(one)
    checkpoints = [
        open_checkpoint(
            one, revision=revision, token=token, tokenizer=None, on_progress=ignore_progress, headers_only=True
        )
        for one in models
    ]
    return find_best(
        checkpoints,
        place or this_machine(Path.cwd(), Speed()),
        device=resolve_device(device, place),
        memory=memory,
        goal=goal,
        rss=resident_memory(),
        context=context,
    )


def quantize(
    model: Model,
    config: MethodConfig | str | Any,
    *,
    output: str | PathLike[str] | None = None,
    device: str = "auto",
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
    resume: bool = True,
    resume_repo: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> QuantizedModel:
    """Make a model small, weight by weight: the full-precision model is never whole in memory.

    Args:
        model: a Hub id (`name` or `name@revision`), a folder, a `.gguf` file, or a loaded `PreTrainedModel`, which
            as it is. A `.gguf` file is expanded whole by transformers first.
        config: a config such as `qt.NF4()`, a method's name, or transformers' `BitsAndBytesConfig`.
        output: a folder to save the result in, which appears when it is whole; None keeps it in memory only.
        device: "cpu", "cuda", "cuda:1", or "auto" for the first GPU if there is one.
        revision: branch, tag or commit of a Hub id; it is pinned to a commit.
        token: Hub token; None for the one that huggingface_hub finds.
        tokenizer: the tokenizer, where none is found beside the model.
        resume: go on with what an earlier call of the same kind had done when it was stopped; false starts anew.
            Methods with calibration keep each block in `OUTPUT.partial/journal` the moment it is done.
        resume_repo: a private Hub repository that this journal is pushed to, and pulled from on a new machine.
        overwrite: replace an output folder that exists; it stays until the new one is whole.
        on_progress: called with a `ProgressEvent` after each step; stops the job by raising `JobCancelled`.

    Returns:
        The quantized model, with memory before, after and at the peak, and what was skipped and why.

    Raises:
        QToolkitError: one line that says what is wrong and what to do; before work starts where that can be.
    """
    settings, sources = resolve_config(config), (revision, token, tokenizer)
    keeping = (resume, resume_repo, overwrite)
    with _forgetting():
        return quantize_model(model, settings, output, device, *sources, *keeping, on_progress or ignore_progress)


def load(
    model: str | PathLike[str],
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    token: str | None = None,
    tokenizer: Any = None,
) -> "QuantizedModel | PreTrainedModel":
    """Read back what `quantize` wrote, any bitsandbytes or GPTQ checkpoint, or a plain model.

    Args:
        model: a folder or a Hub id.
        device: as for `quantize`.
        dtype: type of what is not quantized: "auto" for the checkpoint's own, "bfloat16", "float16", "float32".
        revision, token, tokenizer: as for `quantize`.

    Returns:
        A `QuantizedModel`, or a `PreTrainedModel` when the checkpoint is in full precision.

    Raises:
        QToolkitError: as `quantize`.
    """
    return load_model(model, device, dtype, revision, token, tokenizer)


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
    options = {"seq_len": seq_len, "num_tokens": num_tokens, "stride": stride}
    sources = {"revision": revision, "token": token, "tokenizer": tokenizer}
    report = on_progress or ignore_progress
    return evaluate_model(model, base, text, options, resolve_device(device), sources, report, noise_floor, speed)


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
    options = {"seq_len": seq_len, "num_tokens": num_tokens, "stride": stride}
    sources = {"revision": revision, "token": token, "tokenizer": tokenizer}
    spread = (executor, retries, output, resume, device, sources, on_progress or ignore_progress)
    with _forgetting():
        return compare_models(model, configs, text, options, prompts, memory, noise_floor, *spread)


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


def doctor() -> Doctor:
    """Versions, devices, free memory and disk, and which methods run here: what one pastes into a bug report."""
    return examine({name: get_method(name).requires for name in available_methods()})
