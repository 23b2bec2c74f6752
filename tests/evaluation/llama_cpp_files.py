"""Files of our writer for llama.cpp, and the same models in transformers with the weights that the files hold."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.formats.gguf.file_plan import FilePlan, plan_file

_ALL_F32 = 0  # LLAMA_FTYPE_ALL_F32 of llama.h


def write_file(file: Path, model: PreTrainedModel, quant_type: str, tokenizer: Any = None) -> FilePlan:
    """Write a model as a file, by the plan of our own writer, which is returned."""
    weights = {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    plan = plan_file(model.config, shapes, tokenizer, quant_type, {"general.name": "model"})
    planned = {tensor.entry.name: tensor for tensor in plan.tensors}
    list(write_gguf(file, plan.values, plan.entries, lambda entry: planned[entry.name].made(weights.__getitem__)))
    return plan


def expand(file: Path, model: PreTrainedModel, plan: FilePlan) -> PreTrainedModel:
    """Return a model in float32 with the weights that the `gguf` package reads in its file."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights: dict[str, torch.Tensor] = {}
    for tensor in plan.tensors:
        if not tensor.sources:
            continue  # factors of a rope, which the config has
        found = stored[tensor.entry.name]
        values = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type).copy()).reshape(tensor.entry.shape)
        if tensor.order.heads:
            pairs = values.reshape(tensor.order.heads, -1, 2, *values.shape[1:])  # [rows, in] -> [heads, n, 2, in]
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        values = values - tensor.order.shift
        (source,) = tensor.sources
        if source in weights:  # its second half
            values = torch.cat([weights[source], values], dim=-2)
        weights[source] = values.T if tensor.order.transposed else values
    made = type(model)._from_config(model.config, dtype=torch.float32).eval()
    missing = made.load_state_dict(weights, strict=False).missing_keys
    assert {*missing} <= {*model.all_tied_weights_keys}
    made.tie_weights()
    return made


def expand_by_llama_cpp(library: Any, file: Path, output: Path) -> None:
    """Let llama.cpp write a file anew, each tensor in float32 as it dequantizes it itself."""
    quantize_by_llama_cpp(library, file, output, ftype=_ALL_F32)


def quantize_by_llama_cpp(
    library: Any, file: Path, output: Path, *, ftype: int, means: Mapping[str, np.ndarray] | None = None
) -> None:
    """Let llama.cpp quantize a file.

    Args:
        library: the package `llama_cpp`.
        file, output: what is quantized, and what is written.
        ftype: a number of `enum llama_ftype`.
        means: the mean squares of inputs by the names of tensors, float32 [in] or [experts * in]; None for no imatrix.
    """
    options = library.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.nthread = ftype, True, 1
    if means is not None:
        # An entry without a name ends the list.
        table: Any = (library.llama_model_imatrix_data * (len(means) + 1))()
        for entry, (name, values) in zip(table, means.items(), strict=False):
            entry.name, entry.size = name.encode(), len(values)
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        options.imatrix = table
    assert library.llama_model_quantize(str(file).encode(), str(output).encode(), ctypes.byref(options)) == 0
