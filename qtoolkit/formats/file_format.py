"""Define what a format can do whose whole model is one file of another program, tokenizer included."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.formats.base import Format, Reader, Values
from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtoolkit.models.checkpoint import Checkpoint


def in_full_precision(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return the checkpoint of a folder around one file as if it were not quantized: its weights are expanded."""
    config = copy.deepcopy(checkpoint.config)
    del config.quantization_config
    return replace(checkpoint, config=config, _built=[])


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


class FileFormat(Format):
    """Base of the formats whose whole model is one file; a folder's `quantization_config` names it as `file`.

    Attributes:
        suffix: how the file's name ends.
        load_argument: of transformers' `from_pretrained`, which names the file.
        program: what runs the file, by the name that people know.
        binding: the package through which Python runs that program, by its import name.
        own_file_names: files beside it that are about this one file.
    """

    suffix: ClassVar[str]
    load_argument: ClassVar[str]
    program: ClassVar[str]
    binding: ClassVar[str]
    own_file_names: ClassVar[tuple[str, ...]] = ()

    def file_name(self, values: Values) -> str:
        """Return the name of the file that a `quantization_config`, which anybody may have written, names."""
        name = values.get("file")
        return name if isinstance(name, str) else ""

    @abstractmethod
    def bytes_by_type(self, file: Path) -> Mapping[str, int]:
        """Return the bytes of all tensors of each type, by the header of a file: `{"Q4_K": 71442432, "F32": 140544}`.

        Raises:
            CheckpointError, UnsupportedModelError: it is damaged, or of another kind.
        """

    @abstractmethod
    def file_type(self, values: Values) -> str:
        """Return the type by which programs choose this file among several, "Q8_0"; empty where it is not known.

        Args:
            values: a `quantization_config`, or fields of the config that it was made with; anybody may have edited it.
        """

    @abstractmethod
    def commands(self, repo_id: str, options: Values) -> tuple[str, ...]:
        """Return the commands that run a published model, each with the program's name as a comment before it.

        Args:
            repo_id: of the model on the Hub.
            options: fields of the config that it was made with, which anybody may have edited.
        """

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
