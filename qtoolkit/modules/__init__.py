"""Low-bit replacements of `nn.Linear`."""

from qtoolkit.modules.gptq_format import CHECKPOINT_FORMATS
from qtoolkit.modules.gptq_linear import GPTQLinear
from qtoolkit.modules.quantized_linear import QuantizedLinear
from qtoolkit.modules.scheme import Scheme

__all__ = [
    "CHECKPOINT_FORMATS",
    "GPTQLinear",
    "QuantizedLinear",
    "Scheme",
]
