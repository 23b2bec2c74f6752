"""Define what a format can do whose whole model is one file of another program, tokenizer included."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Format, Reader, Values
from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtoolkit.models.checkpoint import Checkpoint


class FilePlanner(Reader):
    """Plan the file of one model, and write it tensor by tensor.

    Attributes:
        file_notes: what was decided about the file, one line each.
    """

    writes_file = True
    file_notes: tuple[str, ...] = ()

    @abstractmethod
    def write(self, folder: Path, device: str, on_progress: OnProgress) -> Mapping[str, Any]:
        """Write the file into a folder, and return the `quantization_config` that names it.

        Args:
            folder: empty.
            device: where weights are quantized, "cpu" or "cuda:0".
            on_progress: called for each tensor, in bytes of full precision; it may raise `JobCancelled`.

        Raises:
            CheckpointError: a weight cannot be read, or holds NaN or infinity.
        """

    @abstractmethod
    def written_bytes(self, folder: Path) -> int:
        """Return the bytes of all tensors by the header of the file in a folder: what a program maps of them."""


class FileFormat(Format):
    """Base of the formats whose whole model is one file."""

    @abstractmethod
    def planner(self, checkpoint: "Checkpoint", options: Values, left: "Callable[[str], bool]") -> FilePlanner:
        """Return what plans and writes the file of a model.

        Args:
            checkpoint: the model in full precision.
            options: fields of the method's config.
            left: whether a module stays in 16 bits, by its name.

        Raises:
            UnsupportedModelError: the format's programs have no such model or tokenizer.
        """
