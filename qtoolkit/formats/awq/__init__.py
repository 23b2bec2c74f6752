"""The format AWQ, version "gemm": 4-bit codes with zero points, as AutoAWQ wrote them; read, and not written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Format, LayersOf

if TYPE_CHECKING:
    from qtoolkit.formats.base import Reader
    from qtoolkit.models.checkpoint import Checkpoint

__all__ = ["FORMAT"]


class AWQFormat(Format):
    """Read and describe AWQ checkpoints."""

    name = quant_method = tag = "awq"
    packages = ("gptqmodel",)
    reads_itself = True
    layer_suffixes = (".qweight",)

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`: of the methods here, the one that gives such codes to other formats, which hold its own."""
        from qtoolkit.formats.awq.config import options_of

        return "gptq", options_of(values)

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: layers that the file has quantized stay so, whatever the config says, and that is noted."""
        from qtoolkit.formats.awq.interleaved_layers import note_on_left

        note = note_on_left(checkpoint.tensors, checkpoint.quantization or {})
        return checkpoint.with_notes(note) if note else checkpoint

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.awq.reader import AWQReader

        return AWQReader(checkpoint)

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`."""
        from qtoolkit.formats.awq.interleaved_layers import problems_of

        return problems_of(folder, values)

    def layer_bits(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, int]:
        """See `Format`."""
        from qtoolkit.formats.awq.config import bits_of

        return bits_of(values, (name.removesuffix(".qweight") for name in shapes if name.endswith(self.layer_suffixes)))

    def layer_shapes(
        self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, tuple[int, int]]:
        """See `Format`: codes are stored as [inputs, outputs * bits / 32]."""
        stored = {name: (shapes[f"{name}.qweight"], bits) for name, bits in self.layer_bits(values, shapes).items()}
        return {name: (32 * words[1] // bits, words[0]) for name, (words, bits) in stored.items() if len(words) == 2}

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.awq.loader import register

        register()


FORMAT = AWQFormat()
