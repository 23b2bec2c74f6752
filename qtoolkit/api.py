"""The verbs. Each wires rooms together in a few lines; what they do is in the rooms."""

import time
import traceback
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.errors import ConfigError
from qtoolkit.job import refuse_quantized, run_job
from qtoolkit.measure import examine, measure_peak, measure_speed, memory_footprint, resident_memory, this_machine
from qtoolkit.methods import MethodConfig, available_methods, get_method, reader_of, resolve_config
from qtoolkit.optional import optional
from qtoolkit.planning import (
    adapt_dtype,
    find_profile,
    plan_job,
    plan_with_advice,
    refuse_below_one,
    resolve_device,
    resolve_dtype,
)
from qtoolkit.planning import recommend as find_best
from qtoolkit.publishing import publish, receipt_of, verify
from qtoolkit.quantized import QuantizedModel, memory_report, quantization_report
from qtoolkit.records import (
    Doctor,
    Machine,
    MemoryReport,
    OnProgress,
    Plan,
    Recommendation,
    Speed,
    ignore_progress,
)
from qtoolkit.source import open_checkpoint
from qtoolkit.stream import check_output, load_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "doctor",
    "load",
    "measure_memory",
    "measure_peak",
    "plan",
    "publish",
    "quantize",
    "recommend",
    "verify",
]

Model = Any


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
    try:
        return run_job(
            model,
            resolve_config(config),
            output,
            device,
            revision,
            token,
            tokenizer,
            resume,
            resume_repo,
            overwrite,
            on_progress or ignore_progress,
        )
    except BaseException as error:
        # A notebook keeps the last traceback, and its frames would keep the half-made model.
        traceback.clear_frames(error.__traceback__)
        raise


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
    started, place = time.monotonic(), resolve_device(device)
    with measure_peak() as meter:
        checkpoint = open_checkpoint(
            model, revision=revision, token=token, tokenizer=tokenizer, on_progress=ignore_progress, quantized=True
        )
        if dtype != "auto":
            checkpoint.dtype = resolve_dtype(dtype)
        adapt_dtype(checkpoint, place)
        if checkpoint.quantization is None:
            return load_streamed(checkpoint, None, device=place, on_progress=ignore_progress)
        method, settings = reader_of(checkpoint)
        settings, made = plan_job(checkpoint, settings, place, None, rss=resident_memory(), method=method)
        for package in method.requires:
            optional(package, f"{checkpoint.name}, which is quantized with {method.name!r},")
        loaded = method.load(checkpoint, device=place)
        method.prepare(loaded)
    receipt = receipt_of(checkpoint)
    # What lies on the disk is the result, not what was before it.
    memory = replace(memory_report(made, memory_footprint(loaded), checkpoint.path, meter.report), disk_before=None)
    report = quantization_report(made, checkpoint.notes, memory, checkpoint.path, time.monotonic() - started)
    return QuantizedModel(loaded, checkpoint.tokenizer, settings, report, receipt)


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
