"""Define what a format can do whose whole model is one file of another program, tokenizer included."""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.base import Format, Reader, Values
from qtoolkit.formats.file_of_codes import FileOfCodes, FilePart, Unheld
from qtoolkit.noted import Noted
from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedModel

    from qtoolkit.checkpoints.safetensors import StoredTensor
    from qtoolkit.formats.layer import Layer
    from qtoolkit.formats.layer_codes import LayerCodes
    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.input_squares import InputSquares
    from qtoolkit.tensor.block_types import BlockType


class LowRankChange(Protocol):
    """Describe the change of one weight W[out, in] by a LoRA adapter, `scaling` * B A.

    Attributes:
        a: A [rank, in].
        b: B [out, rank].
        scaling: a factor.
    """

    @property
    def a(self) -> "torch.Tensor":
        """See the class."""

    @property
    def b(self) -> "torch.Tensor":
        """See the class."""

    @property
    def scaling(self) -> float:
        """See the class."""


def in_full_precision(checkpoint: "Checkpoint") -> "Checkpoint":
    """Return the checkpoint of a folder around one file as if it were not quantized: its weights are expanded."""
    config = copy.deepcopy(checkpoint.config)
    del config.quantization_config
    return replace(checkpoint, config=config, _built=[])


class FilePlanner(Reader):
    """Plan the file of one model, and write it tensor by tensor."""

    writes_file = True

    def parts(self) -> tuple[FilePart, ...]:
        """Return what workers can make by themselves, which is all tensors together. Default: nothing."""
        return ()

    def make_part(self, part: FilePart, device: str) -> "dict[str, torch.Tensor]":
        """Return the bytes of some tensors by name, uint8 [bytes], on the CPU.

        Args:
            part: one of `parts`.
            device: where weights are quantized, "cpu" or "cuda:0".

        Raises:
            CheckpointError: as `write`.
        """
        raise NotImplementedError(f"{self.name} has no parts")

    def with_made(self, tensors: "Mapping[str, StoredTensor | torch.Tensor]") -> "FilePlanner":
        """Return a planner of the same file that writes these bytes as they are.

        Args:
            tensors: those of all parts, as `make_part` returned them.
        """
        raise NotImplementedError(f"{self.name} has no parts")

    @property
    def file_notes(self) -> tuple[str, ...]:
        """Return what was decided about the file, one line each."""
        return ()

    def settings(self, config: Any) -> dict[str, Any]:
        """See `Planner`: without the options of a text that there is not."""
        return config.to_file()  # type: ignore[no-any-return]

    @abstractmethod
    def sizes_by_choice(self, layer: "Layer", config: Any) -> Mapping[str, int]:
        """See `Planner`: by types; of a layer that cannot be stored in several, the bytes of its own."""

    @abstractmethod
    def grids(self, layers: Iterable[str]) -> "Mapping[str, BlockType]":
        """Return the types of the layers, by their full names, whose codes may be chosen before the file is written.

        Args:
            layers: full names of layers.
        """

    @abstractmethod
    def with_blocks(self, blocks: "Mapping[str, StoredTensor | torch.Tensor]") -> "FilePlanner":
        """Return a planner of the same file that writes the blocks of some layers as they are.

        Args:
            blocks: by full names of layers, uint8 [out, bytes of a row], of the types of `grids`.
        """

    @abstractmethod
    def with_importance(
        self, found: "Mapping[str, InputSquares]", *, text: str, samples: tuple[int, ...]
    ) -> "FilePlanner":
        """Return a planner of the same file that weighs errors by the mean squares of inputs, and stores these too.

        Args:
            found: the squares by full names of layers.
            text: the name of the text that they are of.
            samples: of that text, [samples, tokens].
        """

    @abstractmethod
    def write(self, folder: Path, device: str, on_progress: OnProgress) -> Mapping[str, Any]:
        """Write the file into a folder, and return the `quantization_config` that names it.

        Args:
            folder: empty.
            device: where weights are quantized, "cpu" or "cuda:0".
            on_progress: called for each tensor, in bytes of full precision; it may raise `JobCancelled`.

        Raises:
            ConfigError: the importance is that of another model.
            CheckpointError: a weight cannot be read, or holds NaN or infinity.
        """


class FileFormat(Format):
    """Base of the formats whose whole model is one file; a folder's `quantization_config` names it as `file`.

    Attributes:
        suffix: how the file's name ends.
        program: what runs the file, by the name that people know.
        binding: the package through which Python runs that program, by its import name.
        own_file_names: files beside it that are about this one file.
        takes_codes: whether its file can take over codes that were chosen elsewhere (`file_of_codes`).
    """

    suffix: ClassVar[str]
    program: ClassVar[str]
    binding: ClassVar[str]
    own_file_names: ClassVar[tuple[str, ...]] = ()
    takes_codes: ClassVar[bool] = False

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

    def compare_tokens(self, file: Path) -> Noted[str]:
        """Compare the tokenizer that a file holds with the one beside it, by the tokens of odd texts.

        Returns:
            What differs though nothing that is known explains it, empty for nothing; with notes on what is known to.
        """
        return Noted("")

    def quantized_layers(self, file: Path, config: Any, names: Iterable[str]) -> dict[str, int]:
        """Return the bytes that a file has of each of these layers, without those that it holds in full precision.

        Args:
            file: with the model, or the first of its parts.
            config: transformers' config of the model.
            names: of linear layers.

        Raises:
            UnsupportedModelError: the format has no adapters, or not for such models.
        """
        raise UnsupportedModelError(f"{self.program} takes no adapters beside {file.name}")

    def write_adapter(
        self, path: Path, changes: Mapping[str, LowRankChange], *, config: Any, name: str, in_8_bits: bool = False
    ) -> None:
        """Write a LoRA adapter that the format's program adds to a model in such a file.

        Args:
            path: the file, which must not exist.
            changes: by the names of layers.
            config: transformers' config of the model.
            name: of the adapter.
            in_8_bits: whether to write 8 bits where the program has a type for that.

        Raises:
            UnsupportedModelError: the format has no adapters, or not for such models.
        """
        raise UnsupportedModelError(f"{self.program} takes no adapters: keep {name} as peft writes it")

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
    def planner(
        self,
        checkpoint: "Checkpoint",
        options: Values,
        left: "Callable[[str], bool]",
        types: "Callable[[str], str | None]",
        *,
        importance: "Mapping[str, torch.Tensor] | None" = None,
    ) -> FilePlanner:
        """Return what plans and writes the file of a model.

        Args:
            checkpoint: the model in full precision.
            options: fields of the method's config.
            left: whether a module stays in 16 bits, by its name.
            types: the type of a module's weight, by its name; None where the format chooses.
            importance: the mean squares of the inputs of weights, float32 [in] or [experts, in], by the program's names
                of the tensors; an empty one where blocks will be given that are chosen by it; None for that of a file
                that the options name, if they name one.

        Raises:
            ConfigError: the importance is that of another model; or experts of one tensor have several types.
            CheckpointError: the file of it cannot be read.
            UnsupportedModelError: the format's programs have no such model or tokenizer.
        """

    def file_of_codes(
        self,
        checkpoint: "Checkpoint",
        model: "PreTrainedModel",
        layers: "Mapping[str, LayerCodes]",
        *,
        lossy: bool,
        wider: bool,
    ) -> "FileOfCodes | Unheld":
        """Return the file that takes over the codes of a quantized checkpoint, or why none does.

        Args:
            checkpoint: quantized.
            model: on the meta device.
            layers: the codes of each quantized layer by the names of the model's modules.
            lossy: whether scales and minima may be rounded.
            wider: whether codes may be stored in larger ones, the same numbers in more bytes.

        Raises:
            UnsupportedModelError: the format's programs have no such model or tokenizer.
        """
        raise NotImplementedError(f"{self.name} takes over no codes")
