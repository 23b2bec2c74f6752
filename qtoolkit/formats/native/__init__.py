"""qtoolkit's own checkpoints: integer codes in rows, `quant_method: qtoolkit`."""

from qtoolkit.formats.native.tensors import NativeTensors

__all__ = ["NativeTensors"]
