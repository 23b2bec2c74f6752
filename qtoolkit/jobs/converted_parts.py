"""Make the tensors of a converted model: here one layer after the other, or on other processes block by block."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.files import path_of
from qtoolkit.formats import FileFormat, FileOfCodes, GroupedFormat, LayersFormat, Unheld, conversion_targets
from qtoolkit.jobs.checkpoint_opening import open_source, portable_name
from qtoolkit.jobs.convertible import Convertible, read_convertible
from qtoolkit.jobs.recoded import Recoded, recode, refusal
from qtoolkit.jobs.shard_workers import ExecutorWorkers
from qtoolkit.jobs.shared_parts import PARTS_KEPT, MadeParts, Parts, make_parts
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import block_list
from qtoolkit.requests import ConvertRequest, ModelSource
from qtoolkit.stream.journal import RECIPE_FILE, JournalLocation
from qtoolkit.stream.journal_recipe import recipe_in
from qtoolkit.stream.sealed import read_object
from qtoolkit.stream.staging import journal_of


class ConvertedParts(Parts, Protocol):
    """Make the parts of a converted model.

    Attributes:
        names: of all parts.
    """

    names: tuple[str, ...]


class RecodedBlocks:
    """Recode the layers of each block, and each of the others by itself; implements `ConvertedParts`."""

    def __init__(self, source: Convertible, recoded: Recoded) -> None:
        self._source = source
        self._recoded = recoded
        self._layers: dict[str, list[str]] = {}
        found = block_list(source.model)
        start = f"{found[0]}." if found else "."
        for name in source.layers:
            number, _, inner = name.removeprefix(start).partition(".")
            block = f"{start}{number}" if name.startswith(start) and inner else name
            self._layers.setdefault(block, []).append(name)
        self.names = tuple(self._layers)

    def make(self, number: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """See `Parts`."""
        tensors: dict[str, torch.Tensor] = {}
        for name in self._layers[self.names[number]]:
            tensors |= recoded_layer(self._source, self._recoded, name)
        return tensors, {}


class CodedBlocks:
    """Make the tensors of each block of a file; implements `ConvertedParts`."""

    def __init__(self, file: FileOfCodes) -> None:
        self._file = file
        self._parts = file.parts()
        self.names = tuple(part.name for part in self._parts)

    def make(self, number: int) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """See `Parts`."""
        return self._file.make_part(self._parts[number])


def recoded_layer(source: Convertible, recoded: Recoded, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer of the result, by their names there.

    Raises:
        CheckpointError: it is damaged.
    """
    codes = source.layers[name]
    try:
        tensors = recoded.tensors[name].recode(codes.codes())
    except ValueError as error:
        raise CheckpointError(f"{codes.name} of {source.checkpoint.name} is damaged: {error}") from error
    return {f"{codes.name}.{key}": tensor for key, tensor in tensors.items()}


def all_tensors(
    source: Convertible, recoded: Recoded, made: MadeParts | None
) -> Iterator[Mapping[str, torch.Tensor | StoredTensor]]:
    """Yield the tensors of the result, those of one layer at one time; what is not quantized as it lies in the file.

    Args:
        source: the model.
        recoded: how it is stored.
        made: what workers have made of it; None for nothing.
    """
    if made is not None:
        yield made.tensors()
    else:
        yield from (recoded_layer(source, recoded, name) for name in source.layers)
    taken = {f"{codes.name}.{key}" for codes in source.layers.values() for key in codes.layer.tensors.tensors()}
    for key, tensor in source.checkpoint.tensors.items():
        if key not in taken:
            yield {key: tensor}


def find_target(name: str) -> tuple[GroupedFormat | LayersFormat | FileFormat, str]:
    """Return the format of this name, and its layout.

    Raises:
        ConfigError: no format of this name takes over codes.
    """
    targets = conversion_targets()
    if name not in targets:
        raise ConfigError(f"format must be one of {', '.join(targets)}, got {name!r:.40}")
    return targets[name]


def file_of(source: Convertible, target: FileFormat, layout: str, *, lossy: bool, wider: bool) -> FileOfCodes:
    """Return the file of another program that takes over the codes of a model.

    Raises:
        ConfigError: it does not hold them.
        UnsupportedModelError: the program has no such model.
    """
    file = target.file_of_codes(source.checkpoint, source.model, source.layers, lossy=lossy, wider=wider)
    if isinstance(file, Unheld):
        raise refusal(source, layout, file.reason, file.ways)
    return file


class SharedConversion:
    """Share out the parts of a converted model to workers, and keep them in a journal until the model is written.

    Args:
        request: of the conversion, with an executor.
        source: the model, as this process reads it.
        layout: the format, by the name of its way to pack codes.
        parts: what there is to make.

    Attributes:
        goes_on: whether the journal beside the output is that of the same conversion; that of another job is dropped,
            as by any conversion.
    """

    def __init__(self, request: ConvertRequest, source: Convertible, layout: str, parts: ConvertedParts) -> None:
        checkpoint = source.checkpoint
        self._request = request
        self._allowed = {"lossy": request.lossy, "wider": request.wider}
        self._names = parts.names
        opens = partial(_open_quantized, portable_name(request.model, checkpoint), checkpoint.commit_hash)
        self._workers = ExecutorWorkers(request, checkpoint, opens=opens, kept=PARTS_KEPT)
        self._location = JournalLocation(journal_of(path_of(request.output, "output")))
        self._recipe = {
            "method": "convert",
            "format": layout,
            **self._allowed,
            "commit_hash": checkpoint.commit_hash,
            "weights": checkpoint.fingerprint(),
            "parts": hashlib.sha256("\n".join(parts.names).encode()).hexdigest(),
        }
        self.goes_on = recipe_in(read_object(self._location.folder / RECIPE_FILE)) == self._recipe

    def make(self, new: Path) -> MadeParts:
        """Make all parts.

        Args:
            new: the folder of the result.

        Raises:
            ConfigError: a worker cannot do the job.
            QToolkitError: a task failed; parts that are made are kept.
        """
        self._workers.check(new, self._request.report)
        return make_parts(
            partial(_opened, self._workers.opens, self._request.format, **self._allowed),
            self._names,
            workers=self._workers,
            location=self._location,
            recipe=self._recipe,
            on_progress=self._request.report,
            phase="load",
        )


def _open_quantized(name: str, commit_hash: str | None) -> Checkpoint:
    """Open a model with the Hub token of this machine."""
    return open_source(name, ModelSource(revision=commit_hash), quantized=True)


def _opened(opens: Callable[[], Checkpoint], format_: str, *, lossy: bool, wider: bool) -> Parts:
    """Open in a worker what makes the parts; the other arguments are those of `qtoolkit.convert`."""
    source = read_convertible(opens())
    target, layout = find_target(format_)
    if isinstance(target, FileFormat):
        return CodedBlocks(file_of(source, target, layout, lossy=lossy, wider=wider))
    return RecodedBlocks(source, recode(source, target, layout, lossy=lossy))
