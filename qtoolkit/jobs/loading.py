"""A checkpoint read back, with what is known of how it was made."""

import time
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.measure import check_room, explained, measure_peak, memory_footprint, resident_memory
from qtoolkit.methods import reader_of
from qtoolkit.optional import optional
from qtoolkit.planning import adapt_dtype, plan_job, resolve_device, resolve_dtype
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel, memory_report, quantization_report
from qtoolkit.records import ignore_progress
from qtoolkit.source import Checkpoint, open_checkpoint
from qtoolkit.stream import load_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADVICE = "free some, or load a smaller form: qt.plan tells what each takes"


@explained("loading", _ADVICE)
def load_model(
    model: str | PathLike[str],
    device: str,
    dtype: str | torch.dtype,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
) -> "QuantizedModel | PreTrainedModel":
    """Do what `qtoolkit.load` tells; its arguments are that verb's."""
    place = resolve_device(device)
    checkpoint = open_checkpoint(
        model, revision=revision, token=token, tokenizer=tokenizer, on_progress=ignore_progress, quantized=True
    )
    if dtype != "auto":
        checkpoint.dtype = resolve_dtype(dtype)
    adapt_dtype(checkpoint, place)
    if checkpoint.quantization is None:
        check_room_to_load(checkpoint, place)
        return load_streamed(checkpoint, None, device=place, on_progress=ignore_progress)
    return load_quantized(checkpoint, place)


def load_quantized(checkpoint: Checkpoint, place: str) -> QuantizedModel:
    """Load a checkpoint that is quantized, on a device."""
    started = time.monotonic()
    check_room_to_load(checkpoint, place)
    with measure_peak() as meter:
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


def check_room_to_load(checkpoint: Checkpoint, place: str) -> None:
    """Refuse to load what a `ulimit` leaves no room for: reached while threads read, it ends the process.

    Args:
        checkpoint: the model.
        place: the device that it goes to.

    Raises:
        InsufficientMemoryError: it does not fit.
    """
    check_room(checkpoint.weight_bytes if place == "cpu" else 0, f"loading {checkpoint.name}", _ADVICE)
