"""Write a quantized model in another format: layer by layer, its codes unchanged, renamed when it is complete."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.config_ages import with_both_ages
from qtoolkit.checkpoints.config_limits import without_code
from qtoolkit.checkpoints.layer_values import heads_of
from qtoolkit.errors import ConfigError, DiskFullError, UnsupportedModelError
from qtoolkit.files import path_of
from qtoolkit.formats import FileFormat, GroupedFormat, LayersFormat, conversion_targets, side_files_of
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.conversion_receipts import write_conversion_receipt
from qtoolkit.jobs.converted_parts import (
    CodedBlocks,
    ConvertedParts,
    RecodedBlocks,
    SharedConversion,
    all_tensors,
    file_of,
    find_target,
)
from qtoolkit.jobs.convertible import Convertible, read_convertible
from qtoolkit.jobs.recoded import Recoded, inputs_notes, recode
from qtoolkit.jobs.shared_parts import MadeParts, refuse_without_room
from qtoolkit.measure.disk import disk_size, free_disk
from qtoolkit.measure.guard import explained
from qtoolkit.methods import config_of_checkpoint, stored_of
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.readers import Stored, readers_of, reading_of, running, served_by, titles, within_block
from qtoolkit.records import Conversion, OnProgress, Reading
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
# Kinds of layers that a note names.
_MOST_NAMED = 4


@explained("converting", _ADVICE)
def run_conversion(request: ConvertRequest) -> Conversion:
    """Convert a model, as `qtoolkit.convert` describes."""
    started = time.monotonic()
    target, layout = find_target(request.format)
    folder = path_of(request.output, "output")
    refuse_own_source(request.model, folder)
    check_output(folder, overwrite=request.overwrite)
    source_of = ModelSource(revision=request.revision, token=request.token)
    checkpoint = open_source(request.model, source_of, on_progress=request.report, quantized=True)
    if checkpoint.path is None or not checkpoint.path.is_dir():
        raise UnsupportedModelError(
            f"{checkpoint.name} is no folder of safetensors, which alone are converted: quantize it instead"
        )
    source = read_convertible(checkpoint)
    planned = _plan(source, target, layout, request)
    stored = _refuse_unread(source, planned, request.for_)
    if planned.nbytes > free_disk(folder):
        raise DiskFullError(
            f"{folder} will hold {format_bytes(planned.nbytes)}, and {format_bytes(free_disk(folder))} are free: "
            "free some room, or name an output on another disk"
        )
    shared = None if request.executor is None else SharedConversion(request, source, layout, planned.parts)
    if shared is not None:
        refuse_without_room(folder, planned.nbytes)
    note = f"converted from {source.layout} to {layout}: {planned.same}"
    told = (*planned.notes, *_notes_on_left(stored), *_notes_on_readers(source, stored))
    with staged(folder, overwrite=request.overwrite, resume=shared is not None and shared.goes_on) as partial:
        made = None if shared is None else shared.make(partial)
        beside = _write_beside(source, planned.values, planned.config_entries, partial)
        changes = planned.write(partial, request.report, made)
        notes = (note, *told, *changes, *beside)
        if planned.file_bytes is None:
            check_opens(partial)
        method = write_conversion_receipt(
            source,
            partial,
            layout=layout,
            file_bytes=planned.file_bytes,
            notes=notes,
            started=started,
            on_progress=request.report,
        )
    return Conversion(
        model=source.checkpoint.name,
        commit_hash=source.checkpoint.commit_hash,
        source_format=source.layout,
        format=layout,
        method=method.value,
        num_layers=len(source.layers),
        disk_before=disk_size(checkpoint.path),
        disk_after=disk_size(folder),
        readers=served_by(stored),
        notes=(*source.checkpoint.notes, *told, *changes, *beside, *method.notes),
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
        parts: what workers can make of them.
        write: writes the weights into a folder, given what workers have made, and returns what rounding has changed.
        file_bytes: what a program maps of a result that is one file of another program; None for others.
    """

    values: Mapping[str, Any]
    config_entries: Mapping[str, Any]
    left: tuple[str, ...]
    nbytes: int
    same: str
    notes: tuple[str, ...]
    lossy: bool
    parts: ConvertedParts
    write: Callable[[Path, OnProgress, MadeParts | None], tuple[str, ...]]
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

    def write(folder: Path, on_progress: OnProgress, made: MadeParts | None) -> tuple[str, ...]:
        write_parts(described, all_tensors(source, recoded, made), folder, on_progress)
        return _changes(source, recoded, folder) if recoded.lossy else ()

    return _Planned(
        values=recoded.values,
        config_entries=recoded.config_entries,
        left=recoded.left,
        nbytes=sum(tensor.nbytes for tensor in described.values()),
        same="codes and scales are the same numbers" if recoded.lossy else _SAME,
        notes=recoded.notes,
        lossy=recoded.lossy,
        parts=RecodedBlocks(source, recoded),
        write=write,
    )


def _plan_file(source: Convertible, target: FileFormat, layout: str, request: ConvertRequest) -> _Planned:
    """See `_plan`: a file of another program."""
    file = file_of(source, target, layout, lossy=request.lossy, wider=request.wider)

    def write(folder: Path, on_progress: OnProgress, made: MadeParts | None) -> tuple[str, ...]:
        return (file if made is None else file.with_made(made.tensors(), made.facts)).write(folder, on_progress)

    return _Planned(
        values=file.values,
        config_entries={"quantization_config": dict(file.values)},
        left=(),
        nbytes=file.nbytes,
        same=file.same,
        notes=(*file.notes, *inputs_notes(source)),
        lossy=file.lossy,
        parts=CodedBlocks(file),
        write=write,
        file_bytes=file.weight_bytes,
    )


def _refuse_unread(source: Convertible, planned: _Planned, for_: str | None) -> Stored:
    """Return how the result will be stored; refuse it where the program that it is made for would not load it.

    Raises:
        ConfigError: it would not; the message says why, and what to do.
    """
    stored = _stored(source, planned.values, planned.left)
    if for_ is None:
        return stored
    reading = reading_of(for_, readers_of(stored))
    if not reading.loads:
        formats = [f"format={name!r}" for name in _loaded_formats(source, for_)]
        # Options of a recipe are of no use to codes that are chosen already.
        way = f"give {' or '.join(formats)}" if formats else "it loads these codes in no format that holds them"
        if not formats and reading.remedy and not reading.is_recipe:
            way = reading.remedy
        raise ConfigError(
            f"for_={for_!r}: {reading.name} would not load the result ({reading.why}): {way}, or leave for_ out"
        )
    return stored


def _stored(source: Convertible, values: Mapping[str, Any], left: Sequence[str]) -> Stored:
    """Return how a result will be stored: by its `quantization_config`, and the matrices that are not quantized."""
    return stored_of(
        config_of_checkpoint(values),
        {codes.name: codes.bits for codes in source.layers.values()},
        left,
        shapes={codes.name: codes.shape for codes in source.layers.values()},
        dtype=str(source.checkpoint.dtype).removeprefix("torch."),
        values=values,
        architecture=type(source.checkpoint.skeleton).__name__,
        heads=heads_of(source.checkpoint.config),
    )


def _notes_on_left(stored: Stored) -> Iterator[str]:
    """Yield a note on layers of blocks that are not quantized; none without such."""
    if stored.left:
        kinds = [*dict.fromkeys(map(within_block, stored.left))]
        more = f" and {len(kinds) - _MOST_NAMED} other kinds" if len(kinds) > _MOST_NAMED else ""
        layers = "1 layer stays as it is" if len(stored.left) == 1 else f"{len(stored.left)} layers stay as they are"
        yield f"{layers}, not quantized: {', '.join(kinds[:_MOST_NAMED])}{more}"


def _notes_on_readers(source: Convertible, stored: Stored) -> Iterator[str]:
    """Yield a note on a result that no other program runs, and the format of the same codes that most programs run."""
    if running(readers_of(stored)) or not readers_of(stored):
        return
    served = {name: running(readings) for name, readings in _readings_by_format(source)}
    most = max(served, key=lambda name: len(served[name]), default="")
    way = f": format={most!r} holds the same codes for {titles(served[most])}" if served.get(most) else ""
    yield f"no other program runs the result{way}"


def _loaded_formats(source: Convertible, reader: str) -> Iterator[str]:
    """Yield the formats that hold the same codes, and which a program loads."""
    for name, readings in _readings_by_format(source):
        if readings and reading_of(reader, readings).loads:
            yield name


def _readings_by_format(source: Convertible) -> Iterator[tuple[str, tuple[Reading, ...]]]:
    """Yield the formats that hold the same codes, and what programs say of each; files of other programs aside."""
    for name, (target, layout) in conversion_targets().items():
        if isinstance(target, FileFormat):
            continue
        with suppress(ConfigError):  # it does not hold them
            recoded = recode(source, target, layout)
            yield name, readers_of(_stored(source, recoded.values, recoded.left))


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
