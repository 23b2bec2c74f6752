"""What a job has done so far, block by block: the same call goes on after a kill, a full disk or a lost machine."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.errors import OutputError, SourceError, oneline
from qtoolkit.files import make_folder, sync_folder, write_whole
from qtoolkit.source import StoredTensor, read_tensors
from qtoolkit.source.hub_mirror import HubMirror
from qtoolkit.stream.writing import write_file

RECIPE_FILE = "recipe.json"
_TOKENS_FILE = "tokens.safetensors"


@dataclass(frozen=True)
class DoneBlock:
    """One block's result.

    Attributes:
        tensors: by name, in the model's naming; in a file, or in memory where there is no folder.
        facts: JSON-ready values about it.
    """

    tensors: Mapping[str, StoredTensor | torch.Tensor]
    facts: Mapping[str, Any]


class JournalPlace(NamedTuple):
    """Where a journal is kept.

    Attributes:
        folder: on this machine.
        mirror: its copy on the Hub; None without.
    """

    folder: Path
    mirror: HubMirror | None = None


def begun_recipe(place: JournalPlace) -> dict[str, Any]:
    """The recipe that an unfinished job was begun with, here or in the copy on the Hub; empty without one.

    Raises:
        OutputError: it is damaged.
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """
    if place.mirror is not None:
        make_folder(place.folder)
        place.mirror.pull(place.folder)
    file = place.folder / RECIPE_FILE
    return _read_json(file) if file.exists() else {}


class Journal:
    """Results of blocks, each kept the moment it is whole.

    A block is two files: `block-00007.safetensors`, and `block-00007.json` with the facts and the SHA-256 of the first,
    which makes it count. Both are written beside their names, synced, and renamed, so that a process may die anywhere.

    Args:
        place: where files are kept; None keeps results in memory.
        recipe: all that the results depend on, as JSON-ready values.

    Attributes:
        notes: what went wrong with the copy on the Hub; the job goes on without it.
        found: blocks that an earlier call had done.

    Raises:
        OutputError: the folder was begun with another recipe.
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """

    def __init__(self, place: JournalPlace | None, recipe: Mapping[str, Any]) -> None:
        self.notes: list[str] = []
        self.found = 0
        self._memory: dict[int, DoneBlock] = {}
        self.folder: Path | None = place.folder if place else None
        self._mirror: HubMirror | None = place.mirror if place else None
        self._waiting: list[Path] = []
        if self.folder is None:
            return
        folder = self.folder
        make_folder(folder)
        if self._mirror is not None:
            self._mirror.pull(folder)
        wanted = json.loads(json.dumps(recipe))
        file = folder / RECIPE_FILE
        if file.exists():
            anew = f"name another resume_repo than {self._mirror.repo_id}" if self._mirror else "give resume=False"
            _check_recipe(folder, _read_json(file), wanted, anew)
        else:
            write_whole(file, json.dumps(wanted, indent=2).encode())
            self._push(file)

    def keep_tokens(self, tokens: torch.Tensor) -> None:
        """Keep calibration samples that are not the same when they are made again."""
        if self.folder is not None:
            file = self.folder / _TOKENS_FILE
            _write_tensors(file, {"tokens": tokens})
            self._push(file)

    def kept_tokens(self) -> torch.Tensor | None:
        """The samples that `keep_tokens` kept, int64 [num_samples, seq_len]; None when there are none."""
        file = None if self.folder is None else self.folder / _TOKENS_FILE
        return read_tensors(file)["tokens"][...] if file is not None and file.exists() else None

    def read(self, index: int) -> DoneBlock | None:
        """The result of a block; None when it is not done, or its files are not whole."""
        if self.folder is None:
            return self._memory.get(index)
        weights, facts = self.files(index)
        if not (weights.exists() and facts.exists()):
            return None
        values = _read_json(facts)
        with weights.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != values["sha256"]:
                return None
        self.found += 1
        return DoneBlock(read_tensors(weights), values["facts"])

    def write(self, index: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> DoneBlock:
        """Keep a block's result.

        Raises:
            OSError: the disk is full, or the folder has gone; blocks that were kept before stay whole.
        """
        if self.folder is None:
            self._memory[index] = DoneBlock(dict(tensors), facts)
            return self._memory[index]
        weights, described = self.files(index)
        digest = _write_tensors(weights, tensors)
        write_whole(described, json.dumps({"sha256": digest, "facts": facts}).encode())
        self._push(weights, described)
        return DoneBlock(read_tensors(weights), facts)

    def _push(self, *files: Path) -> None:
        """Copy files to the Hub; those that an earlier failure left behind go with them."""
        if self._mirror is None:
            return
        self._waiting.extend(files)
        self.notes.clear()
        try:
            self._mirror.push(self._waiting)
        except SourceError as error:
            count, where = len(self._waiting), self._mirror.repo_id
            self.notes.append(f"{count} files of the journal are here alone, not in {where}: {oneline(error)}")
        else:
            self._waiting.clear()

    def files(self, index: int) -> tuple[Path, Path]:
        """The two files of a block, weights and facts."""
        assert self.folder is not None
        name = f"block-{index:05}"
        return self.folder / f"{name}.safetensors", self.folder / f"{name}.json"


def _check_recipe(folder: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any], anew: str) -> None:
    for key in dict.fromkeys([*wanted, *begun]):
        if begun.get(key) != wanted.get(key):
            was, now = (str(values.get(key))[:60] for values in (begun, wanted))
            raise OutputError(
                f"{folder.parent} was begun with {key} {was}, and this call has {now}: "
                f"call as before to go on, or {anew} to start anew"
            )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise OutputError(f"{file} is damaged: give resume=False to start anew")
    return values


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of the file."""
    beside = file.with_suffix(".tmp")
    try:
        for _ in write_file(beside, tensors):
            pass
        with beside.open("r+b") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        beside.replace(file)
        sync_folder(file.parent)
    finally:
        beside.unlink(missing_ok=True)
    return digest
