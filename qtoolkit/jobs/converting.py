"""Write a quantized model in another format: layer by layer, its codes unchanged, renamed when it is complete."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.config_ages import with_both_ages
from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.errors import CheckpointError, ConfigError, DiskFullError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.formats import GroupedFormat, LayersFormat, conversion_targets, side_files_of
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.convertible import LAYOUT, Convertible, read_convertible
from qtoolkit.jobs.recoded import Recoded, recode
from qtoolkit.measure.disk import disk_size, free_disk
from qtoolkit.measure.guard import explained
from qtoolkit.measure.host import hardware, versions
from qtoolkit.measure.peak import resident_memory
from qtoolkit.methods import config_of_checkpoint, packages_of_method, reader_of, stored_of
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.planning.planner import plan_job
from qtoolkit.publishing import begin_receipt, behaviour_of, receipt_of, write_receipt
from qtoolkit.quantized import quantization_report
from qtoolkit.readers import Stored, readers_of, reading_of, served_by
from qtoolkit.records import Conversion, MemoryReport, Plan
from qtoolkit.requests import ConvertRequest, ModelSource
from qtoolkit.stream.companion_files import copy_companions
from qtoolkit.stream.staging import check_output, staged
from qtoolkit.stream.tokenizer_writing import write_tokenizer
from qtoolkit.stream.writing import write_parts
from qtoolkit.units import format_bytes

_ADVICE = "free some: each layer is read and written by itself"
_SAME = "codes, scales and zero points are the same numbers"
_GENERATION = "generation_config.json"


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
    recoded = recode(source, target, layout, lossy=request.lossy)
    stored = _refuse_unread(source, recoded, request.for_)
    described = _described(source, recoded)
    size = sum(tensor.nbytes for tensor in described.values())
    if size > free_disk(folder):
        raise DiskFullError(
            f"{folder} will hold {format_bytes(size)}, and {format_bytes(free_disk(folder))} are free: "
            "free some room, or name an output on another disk"
        )
    same = "codes and scales are the same numbers" if recoded.lossy else _SAME
    note = f"converted from {source.layout} to {layout}: {same}"
    with staged(folder, overwrite=request.overwrite) as partial:
        beside = _write_beside(source, recoded, partial)
        write_parts(described, _parts(source, recoded), partial, request.report)
        changes = _changes(source, recoded, partial) if recoded.lossy else ()
        notes = (note, *recoded.notes, *changes, *beside)
        plan = _write_receipt(source, layout, partial, notes, started)
    return Conversion(
        model=source.checkpoint.name,
        commit_hash=source.checkpoint.commit_hash,
        source_format=source.layout,
        format=layout,
        method=plan.method,
        num_layers=len(source.layers),
        disk_before=disk_size(checkpoint.path),
        disk_after=disk_size(folder),
        readers=served_by(stored),
        notes=(*source.checkpoint.notes, *recoded.notes, *changes, *beside),
        path=str(folder),
        seconds=time.monotonic() - started,
        lossy=recoded.lossy,
    )


def _find_target(name: str) -> tuple[GroupedFormat | LayersFormat, str]:
    """Return the format of this name, and its layout.

    Raises:
        ConfigError: no format of this name takes over codes.
    """
    targets = conversion_targets()
    if name not in targets:
        raise ConfigError(f"format must be one of {', '.join(targets)}, got {name!r:.40}")
    return targets[name]


def _refuse_unread(source: Convertible, recoded: Recoded, for_: str | None) -> Stored:
    """Return how the result will be stored; refuse it where the program that it is made for would not load it.

    Raises:
        ConfigError: it would not; the message says why, and what to do.
    """
    bits = {codes.name: codes.bits for codes in source.layers.values()}
    dtype = str(source.checkpoint.dtype).removeprefix("torch.")
    config = config_of_checkpoint(recoded.values)
    architecture = type(source.checkpoint.skeleton).__name__
    stored = stored_of(config, bits, recoded.left, dtype=dtype, values=recoded.values, architecture=architecture)
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


def _write_beside(source: Convertible, recoded: Recoded, folder: Path) -> tuple[str, ...]:
    """Write config, tokenizer and companion files of the source into the folder of the result, and return notes."""
    checkpoint = source.checkpoint
    assert checkpoint.path is not None
    values, _ = without_code(folders.read_config(checkpoint.path))
    kept = {key: value for key, value in values.items() if key not in source.config_entries}
    config = with_both_ages({**kept, **recoded.config_entries})
    texts = {"config.json": json.dumps(config, indent=2, sort_keys=True) + "\n", **side_files_of(recoded.values)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if (checkpoint.path / _GENERATION).is_file():
        (folder / _GENERATION).write_bytes((checkpoint.path / _GENERATION).read_bytes())
    written = Noted[list[str]]([]) if checkpoint.tokenizer is None else write_tokenizer(checkpoint.tokenizer, folder)
    return (*written.notes, *copy_companions(checkpoint.path, folder).notes)


def _write_receipt(source: Convertible, layout: str, folder: Path, notes: tuple[str, ...], started: float) -> Plan:
    """Write the receipt of a result whose other files are written, and return the plan of loading it.

    The result is read as any checkpoint, so that one that does not fit its config never reaches the output. What the
    receipt of a model of our own says of its making still holds.
    """
    checkpoint = source.checkpoint
    result = open_source(folder, ModelSource(), quantized=True, headers_only=True)
    read_as = reader_of(result)
    reader = read_as.reader
    plan = plan_job(read_as.checkpoint, read_as.config, "cpu", None, rss=resident_memory(), method=reader).plan
    disk = disk_size(folder)
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
                footprint_after=plan.footprint_after,
                predicted_footprint_after=None,
                disk_after=disk,
                predicted_disk_after=plan.disk_after,
            ),
            num_layers=len(plan.layers),
            taken_over=layout if own.taken_over else "",
        )
    else:
        memory = MemoryReport(
            num_parameters=plan.source.num_parameters,
            footprint_before=plan.source.footprint,
            footprint_after=plan.footprint_after,
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
        receipt = replace(receipt, taken_over=layout)
    write_receipt(folder, receipt)
    return plan
