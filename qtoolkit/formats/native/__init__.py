"""qtoolkit's own format, `quant_method: qtoolkit`: the method and its options are stored, and it builds the layers."""

from qtoolkit.formats.base import LayersFormat

__all__ = ["FORMAT"]


class NativeFormat(LayersFormat):
    """Store, read and describe qtoolkit's own checkpoints."""

    name = "native"
    quant_method = "qtoolkit"


FORMAT = NativeFormat()
