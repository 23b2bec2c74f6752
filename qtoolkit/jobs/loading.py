"""A checkpoint read back, with what is known of how it was made."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import CheckpointError, QToolkitError
from qtoolkit.formats import side_file_names
from qtoolkit.measure import check_room, explained, measure_peak, memory_footprint, resident_memory
from qtoolkit.methods import reader_of
from qtoolkit.models import Checkpoint, open_checkpoint
from qtoolkit.models.building import cause_of
from qtoolkit.optional import optional
from qtoolkit.planning import adapt_dtype, plan_job, resolve_device, resolve_dtype
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel, memory_report, quantization_report
from qtoolkit.records import ignore_progress
from qtoolkit.stream import load_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADVICE = "free some, or load a smaller form: qt.plan tells what each takes"


@explained("loading", _ADVICE)
def load_model(
    model: str | PathLike[str],
    *,
    device: str,
    dtype: str | torch.dtype,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
) -> "QuantizedModel | PreTrainedModel":
    """Do what `qtoolkit.load` tells; its arguments are that verb's."""
    place = resolve_device(device)
    checkpoint = open_checkpoint(
        model,
        revision=revision,
        token=token,
        tokenizer=tokenizer,
        on_progress=ignore_progress,
        quantized=True,
        side_files=side_file_names(),
    )
    if dtype != "auto":
        checkpoint = replace(checkpoint, dtype=resolve_dtype(dtype))
    checkpoint = adapt_dtype(checkpoint, place)
    if checkpoint.quantization is None:
        check_room_to_load(checkpoint, place)
        with _foreign_errors(checkpoint.name):
            return load_streamed(checkpoint, None, device=place, on_progress=ignore_progress).value
    return load_quantized(checkpoint, place)


@contextmanager
def _foreign_errors(name: str) -> Iterator[None]:
    """Tell in one line what transformers and other readers raise of a checkpoint that lies.

    Raises:
        CheckpointError: anything but an error of ours or a lack of memory.
    """
    try:
        with panics_as_errors():
            yield
    except (QToolkitError, MemoryError):
        raise
    except Exception as error:  # a value of the wrong type makes readers raise anything
        raise CheckpointError(
            f"{name} does not load ({cause_of(error)}): its config.json is not that of its weights, get both again"
        ) from error


def load_quantized(checkpoint: Checkpoint, place: str) -> QuantizedModel:
    """Load a checkpoint that is quantized, on a device."""
    with _foreign_errors(checkpoint.name):
        return _load_quantized(checkpoint, place)


def _load_quantized(checkpoint: Checkpoint, place: str) -> QuantizedModel:
    started = time.monotonic()
    check_room_to_load(checkpoint, place)
    with measure_peak() as meter:
        read_as = reader_of(checkpoint)
        reader = read_as.reader
        planned = plan_job(read_as.checkpoint, read_as.config, place, None, rss=resident_memory(), method=reader)
        for package in reader.requires:
            optional(package, f"{checkpoint.name}, which is quantized with {reader.name!r},")
        loaded = reader.load(planned.checkpoint, device=place)
        reader.prepare(loaded.value)
    receipt = receipt_of(checkpoint)
    made = planned.plan
    # What lies on the disk is the result, not what was before it.
    memory = replace(
        memory_report(made, memory_footprint(loaded.value), checkpoint.path, meter.report), disk_before=None
    )
    notes = (*planned.checkpoint.notes, *loaded.notes, *receipt.notes)
    report = quantization_report(made, notes, memory, checkpoint.path, time.monotonic() - started)
    return QuantizedModel(loaded.value, checkpoint.tokenizer, planned.config, report, receipt.value)


def check_room_to_load(checkpoint: Checkpoint, place: str) -> None:
    """Refuse to load what a `ulimit` leaves no room for: reached while threads read, it ends the process.

    Args:
        checkpoint: the model.
        place: the device that it goes to.

    Raises:
        InsufficientMemoryError: it does not fit.
    """
    check_room(checkpoint.weight_bytes if place == "cpu" else 0, f"loading {checkpoint.name}", _ADVICE)
