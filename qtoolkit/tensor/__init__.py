"""Pure functions on tensors: grouping, affine codes, packing."""

from qtoolkit.tensor.affine import absmax_quantize, code_range, dequantize, zero_point_quantize
from qtoolkit.tensor.grouping import GRANULARITIES, Granularity, from_groups, scale_shape, to_groups
from qtoolkit.tensor.packing import pack_int4, unpack_int4
from qtoolkit.tensor.words import WORD_BITS, pack_words, unpack_words

__all__ = [
    "GRANULARITIES",
    "WORD_BITS",
    "Granularity",
    "absmax_quantize",
    "code_range",
    "dequantize",
    "from_groups",
    "pack_int4",
    "pack_words",
    "scale_shape",
    "to_groups",
    "unpack_int4",
    "unpack_words",
    "zero_point_quantize",
]
