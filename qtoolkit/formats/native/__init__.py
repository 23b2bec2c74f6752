"""qtoolkit's own format, `quant_method: qtoolkit`: the method and its options are stored, and it builds the layers."""

from collections.abc import Mapping
from typing import Any

from qtoolkit.formats.layers_format import LayersFormat

__all__ = ["FORMAT"]


class NativeFormat(LayersFormat):
    """Store, read and describe qtoolkit's own checkpoints."""

    name = "native"
    quant_method = "qtoolkit"

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        return (
            "Without `import qtoolkit`, transformers 5 warns of an unknown quantization type, and then stops at shapes "
            "that do not fit (4 bits) or computes with wrong weights (8 bits)."
        )


FORMAT = NativeFormat()
