"""Load a saved model together with its receipt."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.panics import panics_as_errors
from qtoolkit.errors import CheckpointError, QToolkitError
from qtoolkit.formats import FileFormat, format_of
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.convertible import known_options
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.guard import check_room, explained
from qtoolkit.measure.peak import measure_peak, resident_memory
from qtoolkit.methods import ReadAs, reader_of
from qtoolkit.models.building import cause_of
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.optional import optional
from qtoolkit.planning.device import adapt_dtype, resolve_device, resolve_dtype
from qtoolkit.planning.planner import plan_job
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel, memory_report, quantization_report
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.records import ignore_progress
from qtoolkit.requests import LoadRequest
from qtoolkit.stream.loading import load_streamed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADVICE = "free some, or load a smaller form: qt.plan tells what each takes"


@explained("loading", _ADVICE)
def run_loading(request: LoadRequest) -> "QuantizedModel | PreTrainedModel":
    """Load a saved model, as `qtoolkit.load` describes."""
    device = resolve_device(request.device)
    checkpoint = open_source(request.model, request, quantized=True)
    if request.dtype != "auto":
        checkpoint = replace(checkpoint, dtype=resolve_dtype(request.dtype))
    return load_opened(checkpoint, device)


@explained("loading", _ADVICE)
def load_opened(checkpoint: Checkpoint, device: str) -> "QuantizedModel | PreTrainedModel":
    """Load a checkpoint, quantized or not, on a device."""
    checkpoint = adapt_dtype(checkpoint, device)
    if checkpoint.quantization is not None:
        return load_quantized(checkpoint, device)
    check_room_to_load(checkpoint, device)
    with _foreign_errors(checkpoint.name):
        return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress).value


@contextmanager
def _foreign_errors(name: str) -> Iterator[None]:
    """Turn what transformers and other readers raise on a checkpoint with wrong metadata into one line.

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


def load_quantized(checkpoint: Checkpoint, device: str) -> QuantizedModel:
    """Load a checkpoint that is quantized, on a device."""
    started = time.monotonic()
    with _foreign_errors(checkpoint.name):
        check_room_to_load(checkpoint, device)
        with measure_peak() as meter:
            read_as = reader_of(checkpoint)
            reader = read_as.reader
            planned = plan_job(read_as.checkpoint, read_as.config, device, None, rss=resident_memory(), method=reader)
            for package in reader.requires:
                optional(package, f"{checkpoint.name}, which is quantized with {reader.name!r},")
            loaded = reader.load(planned.checkpoint, device=device)
            reader.prepare(loaded.value)
        receipt = receipt_of(checkpoint)
        memory = memory_report(planned.plan, memory_footprint(loaded.value), checkpoint.path, meter.report)
        # The files on the disk are the result: those of the original model are not known.
        memory = replace(memory, disk_before=None)
        notes = (*planned.checkpoint.notes, *loaded.notes, *receipt.notes)
        path = checkpoint.path if checkpoint.path is None or checkpoint.path.is_dir() else checkpoint.path.parent
        plan = replace(planned.plan, settings=_known(planned.plan.settings, read_as))
        report = quantization_report(plan, notes, memory, path, time.monotonic() - started)
    if isinstance(format_of(checkpoint.quantization), FileFormat):
        return QuantizedFile(lambda: loaded.value, checkpoint.tokenizer, planned.config, report, receipt.value)
    return QuantizedModel(loaded.value, checkpoint.tokenizer, planned.config, report, receipt.value)


def _known(settings: Mapping[str, Any], read_as: ReadAs) -> dict[str, Any]:
    """Return the settings of a plan that the files of its checkpoint tell: a method's defaults may not be theirs."""
    known = known_options(read_as.checkpoint, read_as.config)
    return {key: known.get(key, value) for key, value in settings.items() if key in known}


def check_room_to_load(checkpoint: Checkpoint, device: str) -> None:
    """Refuse to load a model that exceeds a `ulimit`: if threads that read reach it, the process ends.

    Raises:
        InsufficientMemoryError: it does not fit.
    """
    check_room(checkpoint.weight_bytes if device == "cpu" else 0, f"loading {checkpoint.name}", _ADVICE)
