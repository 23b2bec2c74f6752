"""Multiply with quantized weights: one linear layer, one place that chooses the kernel, one file for each kernel."""

from qtoolkit.kernels.blockwise import output_blocks
from qtoolkit.kernels.codes import Codes, Kernel, StoredTensors, stored_bytes
from qtoolkit.kernels.linear import QuantizedLinear
from qtoolkit.kernels.select import memory_bytes

__all__ = ["Codes", "Kernel", "QuantizedLinear", "StoredTensors", "memory_bytes", "output_blocks", "stored_bytes"]
