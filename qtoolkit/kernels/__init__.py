"""Multiply with quantized weights: one linear layer, one place that chooses the kernel, one file for each kernel."""

from qtoolkit.kernels.blockwise import expand, output_blocks
from qtoolkit.kernels.changed_codes import codes_as_stored, of_inputs, with_change, with_codes
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors, stored_bytes
from qtoolkit.kernels.embedding import QuantizedEmbedding, TiedHead
from qtoolkit.kernels.int8_rows import multiply_rows
from qtoolkit.kernels.linear import QuantizedLinear
from qtoolkit.kernels.select import memory_bytes

__all__ = [
    "Codes",
    "Kernel",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "StoredTensors",
    "TiedHead",
    "codes_as_stored",
    "expand",
    "memory_bytes",
    "multiply_rows",
    "of_inputs",
    "output_blocks",
    "stored_bytes",
    "with_change",
    "with_codes",
]
