"""qtoolkit's own checkpoints: layers as their method builds them, `quant_method: qtoolkit`."""

from collections.abc import Mapping
from typing import Any

from qtoolkit.formats.base import LayersFormat

__all__ = ["FORMAT"]


class NativeFormat(LayersFormat):
    """See the module."""

    name = "native"
    quant_method = "qtoolkit"

    def readers(self, settings: Mapping[str, Any]) -> str:
        """See `Format`."""
        return "These layers are qtoolkit's own: no other program reads them."


FORMAT = NativeFormat()
