"""The GPTQ format: codes in 32-bit words, as auto-gptq, gptqmodel, vLLM and transformers read them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.checkpoints.filenames import QUANTIZE_CONFIG
from qtoolkit.formats.base import Format, LayersOf, is_uneven

if TYPE_CHECKING:
    from qtoolkit.formats.base import Reader
    from qtoolkit.models.checkpoint import Checkpoint

__all__ = ["FORMAT"]


class GPTQFormat(Format):
    """Store, read and describe GPTQ checkpoints."""

    name = quant_method = tag = "gptq"
    packages = ("optimum", "gptqmodel")
    reads_itself = True
    side_file_names = (QUANTIZE_CONFIG,)
    layer_suffixes = (".qweight",)

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        from qtoolkit.formats.gptq.config import options_of

        return "gptq", options_of(values)

    def corrected(self, checkpoint: "Checkpoint") -> "Checkpoint":
        """See `Format`: correct a wrong `checkpoint_format`."""
        from qtoolkit.formats.gptq.stored_layers import correct_format

        return correct_format(checkpoint)

    def reader(self, checkpoint: "Checkpoint") -> "Reader":
        """See `Format`."""
        from qtoolkit.formats.gptq.reader import GPTQReader

        return GPTQReader(checkpoint)

    def side_files(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        """See `Format`: the config a second time, in the only file that auto-gptq reads it from."""
        return {QUANTIZE_CONFIG: json.dumps(values, indent=2) + "\n"}

    def problems(self, folder: Path, values: Mapping[str, Any]) -> Sequence[str]:
        """See `Format`."""
        from qtoolkit.formats.gptq.stored_layers import problems_of

        return problems_of(folder, values)

    def needs_qtoolkit(self, options: Mapping[str, Any]) -> bool:
        """See `Format`: optimum gives all layers the same bits."""
        return is_uneven(options)

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        if is_uneven(options):
            return "Its layers have different bits: gptqmodel reads that too; optimum and auto-gptq do not."
        own = "With `import qtoolkit` before it, neither optimum nor gptqmodel is needed."
        if options.get("checkpoint_format") == "gptq_v2":
            return f"{own} Zero points are stored as gptq_v2, which auto-gptq does not read."
        listed = "vLLM and SGLang list GPTQ among the formats that they read; this model was not tried there."
        return f"{own} {listed}"

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.gptq.loader import register

        register()


FORMAT = GPTQFormat()
