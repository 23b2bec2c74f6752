"""qtoolkit's own format, `quant_method: qtoolkit`: the method and its options are stored, and it builds the layers."""

from collections.abc import Mapping
from typing import Any

from qtoolkit.formats.base import LayersFormat

__all__ = ["FORMAT"]


class NativeFormat(LayersFormat):
    """Store, read and describe qtoolkit's own checkpoints."""

    name = "native"
    quant_method = "qtoolkit"

    def readers(self, options: Mapping[str, Any]) -> str:
        """See `Format`."""
        return (
            "Without `import qtoolkit`, transformers 5 does not stop: it warns of an unknown quantization type, and "
            "computes with wrong weights."
        )


FORMAT = NativeFormat()
