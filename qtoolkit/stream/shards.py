"""Describe a calibrated job whose samples are done in shards, and keep what its tasks leave for one another."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.stream.block_method import Accumulator, BlockMethod
from qtoolkit.stream.writing import write_file

# A method of `ShardWorker` with its arguments by name, which takes the worker that does it; it can be pickled.
Task = partial[Any]


class LayersByBlock:
    """Keep the names of the layers to quantize in a file, so that no task carries those of a whole model.

    A mixture of experts has tens of thousands.
    """

    _FILE = "layers.json"

    @classmethod
    def write(cls, folder: Path, layers: Mapping[str, Sequence[str]]) -> None:
        """Keep names in a folder.

        Args:
            folder: exists.
            layers: names of blocks, in their order -> names within the block of its layers.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        (folder / cls._FILE).write_text(json.dumps(layers), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> dict[str, tuple[str, ...]]:
        """Return what `write` kept in a folder."""
        layers = json.loads((folder / cls._FILE).read_text(encoding="utf-8"))
        return {block: tuple(names) for block, names in layers.items()}


@dataclass(frozen=True)
class ShardedJob:
    """Hold what every process that works on a job knows; it can be pickled.

    Attributes:
        opens: opens the model in full precision.
        method: quantizes groups of layers; its accumulators are `ShardAccumulator`s.
        device: where blocks run.
        dtype: the type in which they run.
        num_shards: parts of the samples, each of which is run and summed up for itself.
        folder: that every process reads and writes; `LayersByBlock` of the model are there.
        key: of this run of the job, unlike that of any other.
        propagates: whether blocks see what quantized blocks before them make.
    """

    opens: Callable[[], Checkpoint]
    method: BlockMethod
    device: str
    dtype: torch.dtype
    num_shards: int
    folder: Path
    key: str
    propagates: bool = True

    def shard(self, tokens: torch.Tensor, number: int) -> torch.Tensor:
        """Return the rows of a shard of a tensor [samples, ...]; sizes of shards differ by one at most."""
        return tokens.tensor_split(self.num_shards)[number]


class ShardAccumulator(Accumulator, Protocol):
    """Collect the inputs of one shard, whose sums are added to those of others."""

    def sums(self) -> dict[str, torch.Tensor]:
        """Return the sums, in tensors by name."""

    def add_sums(self, sums: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """Add what `sums` returned of another shard."""


class Tasks(Protocol):
    """Do tasks of `ShardWorker`, here or elsewhere."""

    def run(self, tasks: Sequence[Task], on_wait: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """Do tasks; yield their numbers and results as they come.

        Args:
            tasks: what is done.
            on_wait: called now and then; what it raises ends all.

        Raises:
            QToolkitError: a task failed.
        """

    def close(self) -> None:
        """Free what the tasks left in memory."""


class Workers(Protocol):
    """Do jobs in shards.

    Attributes:
        opens: opens the model in full precision, in any process that works on it.
        is_parallel: whether several tasks may be done at one time.
    """

    is_parallel: bool

    @property
    def opens(self) -> Callable[[], Checkpoint]:
        """See the class."""

    def tasks(self, job: ShardedJob) -> Tasks:
        """Return who does the tasks of a job."""


class Exchange:
    """Keep tensors in files of a folder, which appear when they are complete.

    Args:
        folder: exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep tensors under a name, in place of what it has.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        # Another process may do the same task.
        beside = self._folder / f"{name}.{secrets.token_hex(4)}"
        try:
            for _ in write_file(beside, tensors):
                pass
            beside.replace(self._file(name))
        finally:
            beside.unlink(missing_ok=True)

    def read(self, name: str) -> dict[str, StoredTensor]:
        """Return the tensors of a name, each read when it is indexed.

        Raises:
            CheckpointError: there are none.
        """
        return read_tensors(self._file(name))

    def has(self, name: str) -> bool:
        """Check whether a name has tensors."""
        return self._file(name).is_file()

    def remove(self, prefix: str) -> None:
        """Remove what is kept under all names that begin so."""
        for file in self._folder.glob(f"{prefix}*.safetensors"):
            file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
