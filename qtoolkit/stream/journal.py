"""Store the results of a job block by block, so that the same call resumes after a kill or on another machine."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from qtoolkit.checkpoints.remedy import refuse_pointers
from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.errors import CheckpointError, SourceError, oneline
from qtoolkit.files import make_folder, sha256_of, sync_file, sync_folder, write_whole
from qtoolkit.hub.mirror import HubMirror
from qtoolkit.stream.journal_recipe import VERSION, VERSION_KEY, check_recipe, recipe_in
from qtoolkit.stream.old_journal import put_aside
from qtoolkit.stream.sealed import SEAL, digest_of, is_sealed, read_object, sealed
from qtoolkit.stream.writing import write_file
from qtoolkit.tensor.lazy import LazyTensor

RECIPE_FILE = "recipe.json"
_TOKENS = "tokens"
_WEIGHTS = "weights"

_StoredTensors = Mapping[str, StoredTensor | torch.Tensor]
# Returns whether tensors and facts are valid results of this job, by their names, shapes and values.
Fits = Callable[[_StoredTensors, Mapping[str, Any]], bool]


@dataclass(frozen=True)
class DoneBlock:
    """Hold one block's result.

    Attributes:
        tensors: by their names in the model; in a file, or in memory if the journal has no folder.
        facts: JSON-ready values about it.
    """

    tensors: _StoredTensors
    facts: Mapping[str, Any]


class JournalLocation(NamedTuple):
    """Locate a journal.

    Attributes:
        folder: its folder on this machine.
        mirror: its copy on the Hub; None without one.
    """

    folder: Path
    mirror: HubMirror | None = None


def begun_recipe(location: JournalLocation) -> dict[str, Any]:
    """Return the recipe that an unfinished job was started with, here or in the copy on the Hub.

    It is empty if there is none, or if it is damaged or of another version.

    Raises:
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """
    if location.mirror is not None:
        make_folder(location.folder)
        location.mirror.pull(location.folder, first=RECIPE_FILE)
    return recipe_in(read_object(location.folder / RECIPE_FILE))


class Journal:
    """Store the results of blocks, each as soon as it is complete, and read them when a job is resumed.

    A block is two files: `block-00007.safetensors`, and `block-00007.json` with the facts, the SHA-256 of the first, of
    the recipe and of the stored samples (or of the weights of their tokens), and a seal over all of these; a block
    without a right seal is not used. Both are written under a temporary name, synced, and renamed, so that the process
    may be killed at any moment. A damaged record costs only its own block. The groups of layers of a block with experts
    are stored so too, as `block-00007-group-00012`, until the block is. Files with another recipe or none, from
    other versions or mixed copies, are moved to `OUTPUT.old-journal`, and are never deleted.

    Args:
        location: where files are stored; None keeps results in memory.
        recipe: everything that the results depend on, as JSON-ready values.
        absent: values of the recipe that the recipes of earlier versions lack, as those mean them; they are not stored.

    Attributes:
        resumed: number of blocks that an earlier call had completed.
        noted: what was decided while blocks were done, one line each.

    Raises:
        OutputError: the folder was started with another recipe.
        ConfigError, SourceError: the copy on the Hub cannot be used.
    """

    def __init__(
        self,
        location: JournalLocation | None,
        recipe: Mapping[str, Any],
        *,
        absent: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.resumed = 0
        self.noted: list[str] = []
        self._memory: dict[int, DoneBlock] = {}
        self._not_pushed_note = ""
        self._aside_note = ""
        self.folder: Path | None = location.folder if location else None
        self._mirror: HubMirror | None = location.mirror if location else None
        self._not_pushed: list[Path] = []
        self._absent = absent
        stored = {key: value for key, value in recipe.items() if key not in absent or value != absent[key]}
        self._recipe = digest_of({VERSION_KEY: VERSION, **stored})
        # SHA-256 of what was stored last of the samples and the weights of their tokens.
        self._tokens = ""
        if self.folder is not None:
            self._open(self.folder, json.loads(json.dumps(stored)))

    def _open(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        """Check that the folder belongs to a job with this recipe, or start the job there."""
        make_folder(folder)
        if self._mirror is not None:
            self._mirror.pull(folder, first=RECIPE_FILE)
        # A git-lfs pointer in place of a block is refused, not computed again: git can fetch the block itself.
        refuse_pointers(folder, ["*.json", "*.safetensors"])
        file = folder / RECIPE_FILE
        begun = recipe_in(read_object(file))
        if begun:
            restart = f"name another resume_repo than {self._mirror.repo_id}" if self._mirror else "give resume=False"
            # What a recipe says comes first, in its order, so that the difference that is told is the first of these.
            check_recipe(folder, {**self._absent, **begun}, {**recipe, **self._absent, **recipe}, restart)
        self._put_aside(folder, begun=bool(begun))
        if not begun:
            write_whole(file, sealed({VERSION_KEY: VERSION, **recipe}))
            self._push(file)

    @property
    def notes(self) -> list[str]:
        """Return `noted`, and notes on files put aside and on a failing copy on the Hub, which does not end the job."""
        return [note for note in (*self.noted, self._aside_note, self._not_pushed_note) if note]

    def write_tokens(self, tokens: torch.Tensor) -> None:
        """Store calibration samples that would differ if they were made again; blocks are only valid for these."""
        if self.folder is not None:
            self._tokens = self._write(_TOKENS, {"tokens": tokens}, {})

    def read_tokens(self, fits: Callable[[StoredTensor | torch.Tensor], bool]) -> torch.Tensor | None:
        """Return the samples that `write_tokens` stored; None if there are none, or if they are damaged.

        Args:
            fits: returns whether samples are valid for this job, by their shape and values.
        """
        stored = self._read(_TOKENS, lambda tensors, _: list(tensors) == ["tokens"] and fits(tensors["tokens"]))
        if stored is None:
            return None
        block, self._tokens = stored
        return block.tensors["tokens"][...]

    def write_token_weights(self, weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Store weights of tokens that may differ if they are made again; blocks are only valid for these."""
        if self.folder is not None:
            self._tokens = self._write(_WEIGHTS, weights, facts)

    def read_token_weights(self, fits: Fits) -> DoneBlock | None:
        """Return what `write_token_weights` stored; None if there is none, or if it is damaged.

        Args:
            fits: returns whether weights and facts are valid for this job.
        """
        stored = self._read(_WEIGHTS, fits)
        if stored is None:
            return None
        block, self._tokens = stored
        return block

    def read(self, index: int, fits: Fits) -> DoneBlock | None:
        """Return the result of a block; None if it is not done, or its files are damaged.

        Args:
            index: of the block.
            fits: returns whether tensors and facts are valid results of this job.
        """
        if self.folder is None:
            return self._memory.get(index)
        stored = self._read(_name(index), fits)
        if stored is None:
            return None
        self.resumed += 1
        self._remove_groups(index)
        return stored[0]

    def write(self, index: int, tensors: _StoredTensors, facts: Mapping[str, Any]) -> DoneBlock:
        """Store a block's result.

        Raises:
            OSError: the disk is full, or the folder was removed; blocks that were stored before stay valid.
        """
        if self.folder is None:
            self._memory[index] = DoneBlock(dict(tensors), facts)
            return self._memory[index]
        self._write(_name(index), tensors, facts)
        self._remove_groups(index)
        return DoneBlock(read_tensors(self.files(index)[0]), facts)

    def read_group(self, index: int, number: int, fits: Fits) -> DoneBlock | None:
        """Return the result of a group of layers of a block; None if it is not done, or its files are damaged.

        Args:
            index: of the block.
            number: how many groups of the block were stored before.
            fits: returns whether tensors and facts are valid results of this job.
        """
        stored = self._read(_group_name(index, number), fits)
        return None if stored is None else stored[0]

    def write_group(
        self, index: int, number: int, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> DoneBlock:
        """Store the result of a group of layers on this machine, until its block is stored; raises as `write`."""
        if self.folder is None:
            return DoneBlock(tensors, facts)
        name = _group_name(index, number)
        self._write(name, tensors, facts, is_pushed=False)
        return DoneBlock(read_tensors(self._files(name)[0]), facts)

    def _remove_groups(self, index: int) -> None:
        """Remove the groups of a block that is stored; records first, without which the rest is nothing."""
        assert self.folder is not None
        for end in ("json", "safetensors"):
            for file in self.folder.glob(f"{_name(index)}-group-*.{end}"):
                file.unlink(missing_ok=True)

    def _read(self, name: str, fits: Fits) -> tuple[DoneBlock, str] | None:
        """Return the tensors and facts of a name, and the SHA-256 of the tensors; None if they are not valid."""
        if self.folder is None:
            return None
        weights, description = self._files(name)
        record = read_object(description)
        digest = record.get("sha256")
        facts = record.get("facts")
        ours = record.get("recipe") == self._recipe and record.get("tokens") == self._tokens
        if not (ours and is_sealed(record) and isinstance(facts, dict)):
            return None
        try:
            # Opening a named pipe would wait for ever.
            if not weights.is_file() or sha256_of(weights) != digest:
                return None
            tensors = read_tensors(weights)
            return (DoneBlock(tensors, facts), digest) if fits(tensors, facts) else None
        except (OSError, CheckpointError):
            return None

    def _write(self, name: str, tensors: _StoredTensors, facts: Mapping[str, Any], *, is_pushed: bool = True) -> str:
        """Store tensors and facts under a name, and in the copy on the Hub; returns the SHA-256 of the tensors."""
        weights, description = self._files(name)
        digest = _write_tensors(weights, tensors)
        record = {"sha256": digest, "recipe": self._recipe, "tokens": self._tokens, "facts": facts}
        write_whole(description, sealed(record))
        if is_pushed:
            self._push(weights, description)
        return digest

    def _push(self, *files: Path) -> None:
        """Copy files to the Hub, together with those for which this failed before."""
        if self._mirror is None:
            return
        self._not_pushed.extend(files)
        self._not_pushed_note = ""
        try:
            self._mirror.push(self._not_pushed)
        except SourceError as error:
            reason = f"not in {self._mirror.repo_id}: {oneline(error)}"
            self._not_pushed_note = f"{len(self._not_pushed)} files of the journal are here alone, {reason}"
        else:
            self._not_pushed.clear()

    def files(self, index: int) -> tuple[Path, Path]:
        """Return the two files of a block, weights and facts."""
        return self._files(_name(index))

    def _files(self, name: str) -> tuple[Path, Path]:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors", self.folder / f"{name}.json"

    def _put_aside(self, folder: Path, *, begun: bool) -> None:
        """Move files of another recipe or version out of the journal's folder.

        Args:
            folder: of the journal.
            begun: whether the recipe in the folder is that of this job.
        """
        blocks = [file.stem for file in folder.glob("block-*.json")]
        others = [] if begun else [RECIPE_FILE.removesuffix(".json")]
        foreign = {name for name in (*blocks, *others, _TOKENS, _WEIGHTS) if self._is_foreign(name)}
        if not begun and not self._files(_TOKENS)[1].exists():
            # The first version stored samples without a record.
            foreign.add(_TOKENS)
        files = [file for name in sorted(foreign) for file in self._files(name) if file.is_file()]
        if files:
            aside = put_aside(folder, files)
            self._aside_note = (
                f"the journal held {len(files)} files of an older version or another recipe: they do not count, and "
                f"are kept in {aside}, which may be removed"
            )

    def _is_foreign(self, name: str) -> bool:
        """Return whether a record, or the recipe, is undamaged but not of this job."""
        record = read_object(self._files(name)[1])
        if SEAL not in record:
            return bool(record)
        return is_sealed(record) and record.get("recipe") != self._recipe


def _name(index: int) -> str:
    return f"block-{index:05}"


def _group_name(index: int, number: int) -> str:
    return f"{_name(index)}-group-{number:05}"


def _unread(tensor: StoredTensor | torch.Tensor) -> LazyTensor | torch.Tensor:
    """Return a tensor that is read when it is written, where it stands in a file."""
    if isinstance(tensor, torch.Tensor):
        return tensor
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor[...])


def _write_tensors(file: Path, tensors: _StoredTensors) -> str:
    """Write a safetensors file, durably and in one step; returns its SHA-256."""
    beside = file.with_suffix(".tmp")
    try:
        for _ in write_file(beside, {name: _unread(tensor) for name, tensor in tensors.items()}):
            pass
        sync_file(beside)
        digest = sha256_of(beside)
        beside.replace(file)
        sync_folder(file.parent)
    finally:
        beside.unlink(missing_ok=True)
    return digest
