"""Write a quantized model in another format: layer by layer, its codes unchanged, renamed when it is complete."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.config_ages import with_both_ages
from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.errors import CheckpointError, ConfigError, DiskFullError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.formats import FileFormat, GroupedFormat, LayersFormat, Unheld, conversion_targets, side_files_of
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.convertible import LAYOUT, Convertible, read_convertible
from qtoolkit.jobs.recoded import Recoded, inputs_notes, recode, refusal
from qtoolkit.measure.disk import disk_size, free_disk
from qtoolkit.measure.guard import explained
from qtoolkit.measure.host import hardware, versions
from qtoolkit.measure.peak import resident_memory
from qtoolkit.methods import config_of_checkpoint, packages_of_method, reader_of, stored_of
from qtoolkit.models import structure
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.planning.planner import plan_job
from qtoolkit.publishing import begin_receipt, behaviour_of, receipt_of, write_receipt
from qtoolkit.quantized import quantization_report
from qtoolkit.readers import Stored, readers_of, reading_of, served_by
from qtoolkit.records import Conversion, MemoryReport, OnProgress, Receipt
from qtoolkit.requests import ConvertRequest, ModelSource
from qtoolkit.stream.companion_files import copy_companions
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.tokenizer_writing import write_tokenizer
from qtoolkit.stream.writing import write_parts
from qtoolkit.structural_reading import check_opens
from qtoolkit.units import format_bytes

_ADVICE = "free some: each layer is read and written by itself"
_SAME = "codes, scales and zero points are the same numbers"
_GENERATION = "generation_config.json"
_LEFT = "not quantized in the checkpoint"


@explained("converting", _ADVICE)
def run_conversion(request: ConvertRequest) -> Conversion:
    """Convert a model, as `qtoolkit.convert` describes."""
    started = time.monotonic()
    target, layout = _find_target(request.format)
    folder = path_of(request.output, "output")
    refuse_own_source(request.model, folder)
    check_output(folder, overwrite=request.overwrite)
    source_of = ModelSource(revision=request.revision, token=request.token)
    checkpoint = open_source(request.model, source_of, on_progress=request.report, quantized=True)
    if checkpoint.path is None or not checkpoint.path.is_dir():
        raise UnsupportedModelError(f"{checkpoint.name} is no folder of safetensors, which alone are converted")
    source = read_convertible(checkpoint)
    planned = _plan(source, target, layout, request)
    stored = _refuse_unread(source, planned, request.for_)
    if planned.nbytes > free_disk(folder):
        raise DiskFullError(
            f"{folder} will hold {format_bytes(planned.nbytes)}, and {format_bytes(free_disk(folder))} are free: "
            "free some room, or name an output on another disk"
        )
    note = f"converted from {source.layout} to {layout}: {planned.same}"
    with staged(folder, overwrite=request.overwrite) as partial:
        beside = _write_beside(source, planned.values, planned.config_entries, partial)
        changes = planned.write(partial, request.report)
        notes = (note, *planned.notes, *changes, *beside)
        if planned.file_bytes is None:
            check_opens(partial)
        method = _write_receipt(source, planned, layout=layout, folder=partial, notes=notes, started=started)
    return Conversion(
        model=source.checkpoint.name,
        commit_hash=source.checkpoint.commit_hash,
        source_format=source.layout,
        format=layout,
        method=method,
        num_layers=len(source.layers),
        disk_before=disk_size(checkpoint.path),
        disk_after=disk_size(folder),
        readers=served_by(stored),
        notes=(*source.checkpoint.notes, *planned.notes, *changes, *beside),
        path=str(folder),
        seconds=time.monotonic() - started,
        lossy=planned.lossy,
    )


@dataclass(frozen=True)
class _Planned:
    """The weights of a result before they are written.

    Attributes:
        values: the `quantization_config`.
        config_entries: the entries of `config.json` that describe the quantization.
        left: names in the file of the matrices in the blocks that are not quantized.
        nbytes: of the weight files.
        same: what stays as it is.
        notes: what was decided, one line each.
        lossy: whether something is rounded.
        write: writes the weights into a folder, and returns what rounding has changed.
        file_bytes: what a program maps of a result that is one file of another program; None for others.
    """

    values: Mapping[str, Any]
    config_entries: Mapping[str, Any]
    left: tuple[str, ...]
    nbytes: int
    same: str
    notes: tuple[str, ...]
    lossy: bool
    write: Callable[[Path, OnProgress], tuple[str, ...]]
    file_bytes: int | None = None


def _plan(
    source: Convertible, target: GroupedFormat | LayersFormat | FileFormat, layout: str, request: ConvertRequest
) -> _Planned:
    """Plan how a format stores the codes, before any work.

    Raises:
        ConfigError: it does not hold them; the message names what does.
        UnsupportedModelError: a file of another program that has no such model.
    """
    if isinstance(target, FileFormat):
        return _plan_file(source, target, layout, request)
    if request.wider:
        raise ConfigError(f"format {layout!r} stores no codes in larger ones: leave wider out")
    recoded = recode(source, target, layout, lossy=request.lossy)
    described = _described(source, recoded)

    def write(folder: Path, on_progress: OnProgress) -> tuple[str, ...]:
        write_parts(described, _parts(source, recoded), folder, on_progress)
        return _changes(source, recoded, folder) if recoded.lossy else ()

    return _Planned(
        values=recoded.values,
        config_entries=recoded.config_entries,
        left=recoded.left,
        nbytes=sum(tensor.nbytes for tensor in described.values()),
        same="codes and scales are the same numbers" if recoded.lossy else _SAME,
        notes=recoded.notes,
        lossy=recoded.lossy,
        write=write,
    )


def _plan_file(source: Convertible, target: FileFormat, layout: str, request: ConvertRequest) -> _Planned:
    """See `_plan`: a file of another program."""
    file = target.file_of_codes(
        source.checkpoint, source.model, source.layers, lossy=request.lossy, wider=request.wider
    )
    if isinstance(file, Unheld):
        raise refusal(source, layout, file.reason, file.ways)
    return _Planned(
        values=file.values,
        config_entries={"quantization_config": dict(file.values)},
        left=(),
        nbytes=file.nbytes,
        same=file.same,
        notes=(*file.notes, *inputs_notes(source)),
        lossy=file.lossy,
        write=file.write,
        file_bytes=file.weight_bytes,
    )


def _find_target(name: str) -> tuple[GroupedFormat | LayersFormat | FileFormat, str]:
    """Return the format of this name, and its layout.

    Raises:
        ConfigError: no format of this name takes over codes.
    """
    targets = conversion_targets()
    if name not in targets:
        raise ConfigError(f"format must be one of {', '.join(targets)}, got {name!r:.40}")
    return targets[name]


def _refuse_unread(source: Convertible, planned: _Planned, for_: str | None) -> Stored:
    """Return how the result will be stored; refuse it where the program that it is made for would not load it.

    Raises:
        ConfigError: it would not; the message says why, and what to do.
    """
    bits = {codes.name: codes.bits for codes in source.layers.values()}
    dtype = str(source.checkpoint.dtype).removeprefix("torch.")
    config = config_of_checkpoint(planned.values)
    architecture = type(source.checkpoint.skeleton).__name__
    stored = stored_of(config, bits, planned.left, dtype=dtype, values=planned.values, architecture=architecture)
    if for_ is None:
        return stored
    reading = reading_of(for_, readers_of(stored))
    if not reading.loads:
        raise ConfigError(
            f"for_={for_!r}: {reading.name} would not load the result ({reading.why}): "
            f"{reading.remedy or 'name another format'}, or leave for_ out"
        )
    return stored


def _described(source: Convertible, recoded: Recoded) -> dict[str, torch.Tensor]:
    """Return all tensors of the result on the meta device by name, in the order of the source's file."""
    layer_of = {
        f"{codes.name}.{key}": name for name, codes in source.layers.items() for key in codes.layer.tensors.tensors()
    }
    result: dict[str, torch.Tensor] = {}
    for key, tensor in source.checkpoint.tensors.items():
        name = layer_of.get(key)
        if name is None:
            result[key] = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="meta")
            continue
        for own, (shape, dtype) in recoded.tensors[name].tensors().items():
            result[f"{source.layers[name].name}.{own}"] = torch.empty(shape, dtype=dtype, device="meta")
    return result


def _parts(source: Convertible, recoded: Recoded) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of the result, those of one layer at one time."""
    for name, codes in source.layers.items():
        try:
            tensors = recoded.tensors[name].recode(codes.codes())
        except ValueError as error:
            raise CheckpointError(f"{codes.name} of {source.checkpoint.name} is damaged: {error}") from error
        yield {f"{codes.name}.{key}": tensor for key, tensor in tensors.items()}
        del tensors  # before the next layer is read
    taken = {f"{codes.name}.{key}" for codes in source.layers.values() for key in codes.layer.tensors.tensors()}
    for key, tensor in source.checkpoint.tensors.items():
        if key not in taken:
            yield {key: tensor[...]}


def _changes(source: Convertible, recoded: Recoded, folder: Path) -> tuple[str, ...]:
    """Return what rounding has changed in the layers of a result, read back one by one."""
    assert isinstance(recoded.format, GroupedFormat)
    tensors = folders.read_weights(folder)

    def reader(name: str) -> Callable[[str], torch.Tensor]:
        return lambda part: tensors[f"{name}.{part}"][...]

    named = ((codes.name, recoded.tensors[name]) for name, codes in source.layers.items())
    return recoded.format.changes((name, stored, reader(name)) for name, stored in named)


def _write_beside(
    source: Convertible, quantization: Mapping[str, Any], entries: Mapping[str, Any], folder: Path
) -> tuple[str, ...]:
    """Write config, tokenizer and companion files of the source into the folder of the result, and return notes."""
    checkpoint = source.checkpoint
    assert checkpoint.path is not None
    values, _ = without_code(folders.read_config(checkpoint.path))
    kept = {key: value for key, value in values.items() if key not in source.config_entries}
    config = with_both_ages({**kept, **entries})
    texts = {"config.json": json.dumps(config, indent=2, sort_keys=True) + "\n", **side_files_of(quantization)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if (checkpoint.path / _GENERATION).is_file():
        (folder / _GENERATION).write_bytes((checkpoint.path / _GENERATION).read_bytes())
    written = Noted[list[str]]([]) if checkpoint.tokenizer is None else write_tokenizer(checkpoint.tokenizer, folder)
    return (*written.notes, *copy_companions(checkpoint.path, folder).notes)


def _write_receipt(
    source: Convertible, planned: _Planned, *, layout: str, folder: Path, notes: tuple[str, ...], started: float
) -> str:
    """Write the receipt of a result whose other files are written, and return the method that chose the codes.

    The result is read as any checkpoint, so that one that does not fit its config never reaches the output. What the
    receipt of a model of our own says of its making still holds.
    """
    checkpoint = source.checkpoint
    result = open_source(folder, ModelSource(), quantized=True, headers_only=True)
    read_as = reader_of(result)
    reader = read_as.reader
    plan = plan_job(read_as.checkpoint, read_as.config, "cpu", None, rss=resident_memory(), method=reader).plan
    disk = disk_size(folder)
    footprint = plan.footprint_after if planned.file_bytes is None else planned.file_bytes
    own = receipt_of(checkpoint).value
    if own is not None:
        stated = read_as.config.to_dict()
        # Codes without the rounded inputs of their method are those of another.
        kept = own.settings if read_as.config.method == own.method else stated
        receipt = replace(
            own,
            method=read_as.config.method,
            settings={**kept, **{key: stated[key] for key in LAYOUT & stated.keys()}},
            notes=(*own.notes, *notes),
            memory=replace(
                own.memory,
                footprint_after=footprint,
                predicted_footprint_after=None,
                disk_after=disk,
                predicted_disk_after=plan.disk_after,
            ),
            num_layers=len(plan.layers),
            taken_over=layout if own.taken_over else "",
            num_quantized=plan.num_quantized,
        )
    else:
        memory = MemoryReport(
            num_parameters=plan.source.num_parameters,
            footprint_before=plan.source.footprint,
            footprint_after=footprint,
            disk_before=checkpoint.disk_size,
            disk_after=disk,
            predicted_disk_after=plan.disk_after,
        )
        base = behaviour_of(checkpoint)
        # How codes of others were chosen, nothing tells.
        settings = {key: value for key, value in plan.settings.items() if key in LAYOUT}
        about = replace(plan, source=checkpoint.record(), settings=settings)
        every = (*checkpoint.notes, *base.notes, *notes)
        report = quantization_report(about, every, memory, folder, time.monotonic() - started)
        deciding = versions(packages_of_method(plan.method))
        receipt = begin_receipt(checkpoint, base.value, report, deciding, (hardware("cpu"),), None)
        receipt = replace(receipt, taken_over="" if planned.file_bytes is not None else layout)
    if planned.file_bytes is not None:
        receipt = _of_file(source, receipt, own, plan.settings)
    write_receipt(folder, receipt)
    return source.config.method if planned.file_bytes is not None else plan.method


def _of_file(source: Convertible, receipt: Receipt, own: Receipt | None, settings: Mapping[str, Any]) -> Receipt:
    """Return a receipt of a file of another program, whose config tells nothing of how its codes were chosen."""
    chosen = source.layout if own is None else own.converted_from or own.recipe
    layers = source.layers
    left = [name for name, module in source.model.named_modules() if structure.is_linear(module) and name not in layers]
    skipped = Counter({_LEFT: len(left)} if left else {}) if own is None else own.skipped
    return replace(
        receipt,
        settings=settings,
        converted_from=chosen,
        num_layers=len(layers),
        num_quantized=sum(prod(codes.shape) for codes in layers.values()),
        skipped=skipped,
    )
