"""Describe a calibrated job whose samples are done in shards, and keep what its tasks leave for one another."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor, read_tensors
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.stream.block_method import Accumulator, BlockMethod
from qtoolkit.stream.writing import write_file


@dataclass(frozen=True)
class ShardedJob:
    """Hold what every process that works on a job knows; it can be pickled.

    Attributes:
        opens: opens the model in full precision.
        method: quantizes groups of layers; its accumulators are `ShardAccumulator`s.
        device: where blocks run.
        dtype: the type in which they run.
        layers: for each block, the names within it of the layers to quantize.
        quantized: full names of these layers.
        num_shards: parts of the samples, each of which is run and summed up for itself.
        folder: that every process reads and writes.
        key: of this run of the job, unlike that of any other.
    """

    opens: Callable[[], Checkpoint]
    method: BlockMethod
    device: str
    dtype: torch.dtype
    layers: tuple[tuple[str, ...], ...]
    quantized: tuple[str, ...]
    num_shards: int
    folder: Path
    key: str

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

    def run(
        self, task: str, calls: Sequence[tuple[Any, ...]], on_wait: Callable[[], None]
    ) -> Iterator[tuple[int, Any]]:
        """Call a method of `ShardWorker` with each of some arguments; yield numbers of calls and results as they come.

        Args:
            task: the method's name.
            calls: arguments by position, and those by name in a dict at the end.
            on_wait: called now and then; what it raises ends all.

        Raises:
            QToolkitError: a call failed.
        """

    def close(self) -> None:
        """Free what the tasks left in memory."""


class Workers(Protocol):
    """Do jobs in shards.

    Attributes:
        opens: opens the model in full precision, in any process that works on it.
    """

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
