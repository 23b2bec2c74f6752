"""Pure functions on tensors: grouping, integer codes, packing, products, divergences."""

from qtoolkit.tensor.grouping import GRANULARITIES, Granularity, from_groups, scale_shape, to_groups
from qtoolkit.tensor.int4_packing import pack_int4, unpack_int4
from qtoolkit.tensor.int32_packing import WORD_BITS, pack_words, unpack_words
from qtoolkit.tensor.integer_codes import absmax_quantize, code_range, dequantize, zero_point_quantize

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
