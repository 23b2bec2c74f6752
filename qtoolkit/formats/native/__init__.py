"""qtoolkit's own checkpoints: layers as their method builds them, `quant_method: qtoolkit`."""

from collections.abc import Mapping
from typing import Any

from qtoolkit.formats.base import Format, LayersOf

__all__ = ["FORMAT"]


class NativeFormat(Format):
    """See the module."""

    name = "native"
    quant_method = "qtoolkit"

    def method_of(self, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """See `Format`."""
        return values["method"], values["options"]

    def register(self, layers_of: LayersOf) -> None:
        """See `Format`."""
        from qtoolkit.formats.native.loader import register

        register(layers_of)


FORMAT = NativeFormat()
