"""Low-bit replacements of `nn.Linear`."""

from qtoolkit.modules.quantized_linear import QuantizedLinear
from qtoolkit.modules.scheme import Scheme

__all__ = ["QuantizedLinear", "Scheme"]
