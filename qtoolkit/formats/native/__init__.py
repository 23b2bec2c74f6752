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
        return "These layers are qtoolkit's own: no other program reads them."


FORMAT = NativeFormat()
