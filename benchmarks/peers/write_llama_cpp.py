"""Quantize a `.gguf` file with llama.cpp: LIBRARIES INPUT OUTPUT IMATRIX.npz OPTIONS.json ({"ftype": "Q4_K_M"}).

LIBRARIES is a folder with libllama.*.so and what it needs, of llama.cpp v0.4.0: the npm package
@node-llama-cpp/linux-x64 brings them compiled. `llama_model_quantize` is what llama.cpp's tool llama-quantize calls.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
from report import finished, started

FTYPES = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
    "IQ3_XXS": 23, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ4_XS": 30,
}  # fmt: skip


class Importance(ctypes.Structure):
    """struct llama_model_imatrix_data."""

    _fields_: ClassVar = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    ]


class Params(ctypes.Structure):
    """struct llama_model_quantize_params."""

    _fields_: ClassVar = [
        *((name, ctypes.c_int32) for name in ("nthread", "ftype", "output_tensor_type", "token_embedding_type")),
        *((name, ctypes.c_bool) for name in ("allow_requantize", "quantize_output_tensor", "only_copy", "pure")),
        *((name, ctypes.c_bool) for name in ("keep_split", "dry_run")),
        ("imatrix", ctypes.POINTER(Importance)),
        *((name, ctypes.c_void_p) for name in ("kv_overrides", "tt_overrides", "prune_layers")),
        ("max_buf_size", ctypes.c_size_t),
    ]


def main(libraries: str, model: str, output: str, imatrix: str, options: str) -> None:
    """Quantize, and say what it took."""
    fields = json.loads(options)
    folder = Path(libraries)
    for pattern in ("libggml-base*.so", "libggml.*.so"):
        ctypes.CDLL(str(next(folder.glob(pattern))), mode=ctypes.RTLD_GLOBAL)
    llama = ctypes.CDLL(str(next(folder.glob("libllama.*.so"))))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    begin = started()
    params = llama.llama_model_quantize_default_params()
    if not params.quantize_output_tensor or params.only_copy or params.dry_run or params.imatrix:
        sys.exit("llama_model_quantize_params of this llama.cpp has another layout than that of v0.4.0")
    params.nthread, params.ftype = fields.get("threads", 1), FTYPES[fields["ftype"]]
    with np.load(imatrix) as stored:
        values = {name: np.ascontiguousarray(stored[name], dtype=np.float32) for name in stored.files}
    # An entry without a name ends the list.
    table = (Importance * (len(values) + 1))()
    for entry, (name, array) in zip(table, values.items(), strict=False):
        entry.name, entry.size = name.encode(), len(array)
        entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = table
    code = llama.llama_model_quantize(model.encode(), output.encode(), ctypes.byref(params))
    if code:
        sys.exit(f"llama.cpp could not quantize: {code}")
    finished(begin)


main(*sys.argv[1:])
