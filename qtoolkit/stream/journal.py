"""What a job has done so far, block by block: the same call goes on after a kill, a full disk or a lost machine."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError, OutputError, SourceError, oneline
from qtoolkit.files import make_folder, sync_folder, write_whole
from qtoolkit.hub.mirror import HubMirror
from qtoolkit.stream.aside import put_aside
from qtoolkit.stream.sealed import claims_a_seal, digest_of, is_sealed, read_object, sealed, without_seal
from qtoolkit.stream.writing import write_file

RECIPE_FILE = "recipe.json"
_TOKENS = "tokens"
# How a journal is written; one of another version is not gone on with.
_VERSION = 2
_VERSION_KEY = "journal"

_Kept = Mapping[str, StoredTensor | torch.Tensor]
# Whether tensors and facts are such as the job itself would have kept.
Fits = Callable[[_Kept, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class DoneBlock:
    """One block's result.

    Attributes:
        tensors: by name, in the model's naming; in a file, or in memory where there is no folder.
        facts: JSON-ready values about it.
    """

    tensors: _Kept
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
    """Return the recipe that an unfinished job was begun with, here or in the copy on the Hub.

    Empty without one, and where it is damaged or of another version.

    Raises:
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """
    if place.mirror is not None:
        make_folder(place.folder)
        place.mirror.pull(place.folder, first=RECIPE_FILE)
    return _recipe_in(read_object(place.folder / RECIPE_FILE))


class Journal:
    """Results of blocks, each kept the moment it is whole.

    A block is two files: `block-00007.safetensors`, and `block-00007.json` with the facts, the SHA-256 of the first, of
    the recipe and of the samples that were kept, and a seal over all of these, which makes it count. Both are written
    beside their names, synced, and renamed, so that a process may die anywhere. A record that is damaged costs its own
    block. What has another recipe or none, as other versions and mixed copies leave it, is moved to
    `OUTPUT.old-journal`, and is never deleted.

    Args:
        place: where files are kept; None keeps results in memory.
        recipe: all that the results depend on, as JSON-ready values.

    Attributes:
        found: blocks that an earlier call had done.

    Raises:
        OutputError: the folder was begun with another recipe.
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """

    def __init__(self, place: JournalPlace | None, recipe: Mapping[str, Any]) -> None:
        self.found = 0
        self._memory: dict[int, DoneBlock] = {}
        self._not_pushed, self._aside = "", ""
        self.folder: Path | None = place.folder if place else None
        self._mirror: HubMirror | None = place.mirror if place else None
        self._waiting: list[Path] = []
        self._recipe = digest_of({_VERSION_KEY: _VERSION, **recipe})
        self._tokens = ""
        if self.folder is None:
            return
        folder = self.folder
        make_folder(folder)
        if self._mirror is not None:
            self._mirror.pull(folder, first=RECIPE_FILE)
        # A pointer in the place of a block is not worth the block's work: git has it.
        refuse_pointers(folder, ["*.json", "*.safetensors"])
        wanted = json.loads(json.dumps(recipe))
        file = folder / RECIPE_FILE
        begun = _recipe_in(read_object(file))
        if begun:
            anew = f"name another resume_repo than {self._mirror.repo_id}" if self._mirror else "give resume=False"
            _check_recipe(folder, begun, wanted, anew)
        self._put_aside(begun=bool(begun))
        if not begun:
            write_whole(file, sealed({_VERSION_KEY: _VERSION, **wanted}))
            self._push(file)

    @property
    def notes(self) -> list[str]:
        """What was kept aside, and what went wrong with the copy on the Hub; the job goes on without it."""
        return [note for note in (self._aside, self._not_pushed) if note]

    def keep_tokens(self, tokens: torch.Tensor) -> None:
        """Keep calibration samples that are not the same when they are made again; blocks count with these alone."""
        if self.folder is not None:
            self._tokens = self._write(_TOKENS, {"tokens": tokens}, {})

    def kept_tokens(self, fits: Callable[[StoredTensor | torch.Tensor], bool]) -> torch.Tensor | None:
        """Return the samples that `keep_tokens` kept; None when there are none, or none that are whole.

        Args:
            fits: whether samples are such as the job would have kept.
        """
        found = self._read(_TOKENS, lambda tensors, _: list(tensors) == ["tokens"] and fits(tensors["tokens"]))
        if found is None:
            return None
        block, self._tokens = found
        return block.tensors["tokens"][...]

    def read(self, index: int, fits: Fits) -> DoneBlock | None:
        """Return the result of a block; None when it is not done, or its files are not whole.

        Args:
            index: of the block.
            fits: whether tensors and facts are such as the job would have kept.
        """
        if self.folder is None:
            return self._memory.get(index)
        found = self._read(_name(index), fits)
        self.found += found is not None
        return None if found is None else found[0]

    def write(self, index: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> DoneBlock:
        """Keep a block's result.

        Raises:
            OSError: the disk is full, or the folder has gone; blocks that were kept before stay whole.
        """
        if self.folder is None:
            self._memory[index] = DoneBlock(dict(tensors), facts)
            return self._memory[index]
        self._write(_name(index), tensors, facts)
        return DoneBlock(read_tensors(self.files(index)[0]), facts)

    def _read(self, name: str, fits: Fits) -> tuple[DoneBlock, str] | None:
        """Tensors and facts under a name, and the SHA-256 of the tensors; None where they do not count."""
        if self.folder is None:
            return None
        weights, described = self._files(name)
        record = read_object(described)
        digest, facts = record.get("sha256"), record.get("facts")
        ours = record.get("recipe") == self._recipe and record.get("tokens") == self._tokens
        if not (ours and is_sealed(record) and isinstance(facts, dict)):
            return None
        try:
            if not weights.is_file():
                return None
            with weights.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None
            tensors = read_tensors(weights)
            return (DoneBlock(tensors, facts), digest) if fits(tensors, facts) else None
        except (OSError, CheckpointError):
            return None

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> str:
        """Keep tensors and facts under a name; gives the SHA-256 of the tensors."""
        weights, described = self._files(name)
        digest = _write_tensors(weights, tensors)
        record = {"sha256": digest, "recipe": self._recipe, "tokens": self._tokens, "facts": facts}
        write_whole(described, sealed(record))
        self._push(weights, described)
        return digest

    def _push(self, *files: Path) -> None:
        """Copy files to the Hub; those that an earlier failure left behind go with them."""
        if self._mirror is None:
            return
        self._waiting.extend(files)
        self._not_pushed = ""
        try:
            self._mirror.push(self._waiting)
        except SourceError as error:
            where = f"not in {self._mirror.repo_id}: {oneline(error)}"
            self._not_pushed = f"{len(self._waiting)} files of the journal are here alone, {where}"
        else:
            self._waiting.clear()

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the two files of a block, weights and facts."""
        return self._files(_name(index))

    def _files(self, name: str) -> tuple[Path, Path]:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors", self.folder / f"{name}.json"

    def _put_aside(self, *, begun: bool) -> None:
        """Move what another recipe or another version left out of the way.

        Args:
            begun: whether the recipe in the folder is that of this job.
        """
        assert self.folder is not None
        blocks = [file.stem for file in self.folder.glob("block-*.json")]
        others = [] if begun else [RECIPE_FILE.removesuffix(".json")]
        foreign = {name for name in (*blocks, *others, _TOKENS) if self._is_foreign(name)}
        if not begun and not self._files(_TOKENS)[1].exists():
            # The first version kept samples without a record.
            foreign.add(_TOKENS)
        files = [file for name in sorted(foreign) for file in self._files(name) if file.is_file()]
        if files:
            aside = put_aside(self.folder, files)
            self._aside = (
                f"the journal held {len(files)} files of an older version or another recipe: they do not count, and "
                f"are kept in {aside}, which may be removed"
            )

    def _is_foreign(self, name: str) -> bool:
        """Whether a record, or the recipe, is whole and not of this job."""
        record = read_object(self._files(name)[1])
        if not claims_a_seal(record):
            return bool(record)
        return is_sealed(record) and record.get("recipe") != self._recipe


def _name(index: int) -> str:
    return f"block-{index:05}"


def _recipe_in(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe that a file holds; empty where it is damaged, or of another version."""
    if not is_sealed(found) or found.get(_VERSION_KEY) != _VERSION:
        return {}
    return {key: value for key, value in without_seal(found).items() if key != _VERSION_KEY}


def _check_recipe(folder: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any], anew: str) -> None:
    for key in dict.fromkeys([*wanted, *begun]):
        if begun.get(key) != wanted.get(key):
            was, now = (_shown(values.get(key)) for values in (begun, wanted))
            raise OutputError(
                f"{folder.parent} was begun with {_shown(key)} {was}, and this call has {now}: "
                f"call as before to go on, or {anew} to start anew"
            )


def _shown(value: Any) -> str:
    """A value of a recipe for a message; what stands in a file may be long, or deeper than can be shown."""
    try:
        return " ".join(str(value).split())[:60]
    except RecursionError:
        return "something deep"


def _write_tensors(file: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the file."""
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
