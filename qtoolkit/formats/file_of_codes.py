"""Define the file of another program that takes over the codes of a quantized model, planned and not yet written."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    import torch

    from qtoolkit.checkpoints.safetensors import StoredTensor


class FilePart(NamedTuple):
    """Name the tensors of a file that one worker makes.

    Attributes:
        name: "blk.3", or that of a tensor outside of the blocks.
        tensors: names of tensors, in the order of the file.
        nbytes: of them in the file.
    """

    name: str
    tensors: tuple[str, ...]
    nbytes: int


class FileOfCodes(ABC):
    """The file of a quantized model that takes over its codes, planned and not yet written.

    Attributes:
        values: the `quantization_config` that names it.
        nbytes: of the file.
        weight_bytes: of its tensors, as a program maps them.
        lossy: whether scales or minima are rounded.
        same: what stays as it is, "codes, scales and zero points are the same numbers".
        notes: what was decided about the file, one line each.
    """

    values: Mapping[str, Any]
    nbytes: int
    weight_bytes: int
    lossy: bool
    same: str
    notes: tuple[str, ...]

    @abstractmethod
    def write(self, folder: Path, on_progress: OnProgress) -> tuple[str, ...]:
        """Write the file into a folder, tensor by tensor, and return what rounding has changed, one line each.

        Args:
            folder: where there is no such file.
            on_progress: called for each tensor, in bytes of the file; it may raise `JobCancelled`.

        Raises:
            CheckpointError: a tensor cannot be read, or holds NaN or infinity.
        """

    @abstractmethod
    def parts(self) -> tuple[FilePart, ...]:
        """Return what workers can make by themselves, which is all tensors together."""

    @abstractmethod
    def make_part(self, part: FilePart) -> "tuple[dict[str, torch.Tensor], dict[str, Any]]":
        """Return the bytes of some tensors by name, uint8 [bytes], and JSON-ready values on what rounding has changed.

        Args:
            part: one of `parts`.

        Raises:
            CheckpointError: as `write`.
        """

    @abstractmethod
    def with_made(
        self, tensors: "Mapping[str, StoredTensor | torch.Tensor]", changes: "Iterable[Mapping[str, Any]]"
    ) -> "FileOfCodes":
        """Return the same file, which writes these bytes as they are.

        Args:
            tensors: those of all parts.
            changes: the values of all parts, in their order.
        """


class Unheld(NamedTuple):
    """Say why a format does not hold the codes of a checkpoint.

    Attributes:
        reason: what about the codes it does not hold, and of which layer.
        ways: what holds them nevertheless, each a phrase that goes on from "give": "lossy=True (...)".
    """

    reason: str
    ways: tuple[str, ...] = ()
