"""Let llama.cpp quantize a small matrix into each block type, with and without importance, and store the bytes.

Run by hand, `python -m tests.data.llama_cpp.quantize_blocks FOLDER`, with the folder of `libggml-base.so`, which pip
compiles for llama-cpp-python; `blocks.npz` was written with that beside a libllama 0.5.0. The tests compare with that,
and need no llama.cpp.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

from qtoolkit.tensor.block_types import BLOCK_TYPES
from tests.data.llama_cpp.small_matrix import IMPORTANCE, WEIGHT


def quantized(library: ctypes.CDLL, number: int, nbytes: int, importance: np.ndarray | None) -> np.ndarray:
    """Return `ggml_quantize_chunk` of the matrix, uint8 [rows, bytes of a row]."""
    rows, columns = WEIGHT.shape
    stored = np.zeros(nbytes, np.uint8)
    address = None if importance is None else importance.ctypes.data
    written = library.ggml_quantize_chunk(number, WEIGHT.ctypes.data, stored.ctypes.data, 0, rows, columns, address)
    assert written == nbytes
    return stored.reshape(rows, -1)


def main() -> None:
    """Write `blocks.npz` beside this file."""
    library = ctypes.CDLL(str(Path(sys.argv[1]) / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p,
    ]  # fmt: skip
    stored = {}
    for type_ in BLOCK_TYPES.values():
        if type_.block_size > 1:
            nbytes = type_.nbytes(WEIGHT.shape)
            stored[type_.name] = quantized(library, type_.number, nbytes, None)
            stored[f"{type_.name}, weighted"] = quantized(library, type_.number, nbytes, IMPORTANCE)
    np.savez_compressed(Path(__file__).with_name("blocks.npz"), **stored)


if __name__ == "__main__":
    main()
