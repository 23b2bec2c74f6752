"""Low-bit replacements of `nn.Linear`, and experts of a mixture as linear layers."""

from qtoolkit.modules.experts import ExpertList, find_experts, merges_experts, replace_experts
from qtoolkit.modules.gptq_format import CHECKPOINT_FORMATS
from qtoolkit.modules.gptq_linear import GPTQLinear
from qtoolkit.modules.quantized_linear import QuantizedLinear
from qtoolkit.modules.scheme import Scheme

__all__ = [
    "CHECKPOINT_FORMATS",
    "ExpertList",
    "GPTQLinear",
    "QuantizedLinear",
    "Scheme",
    "find_experts",
    "merges_experts",
    "replace_experts",
]
