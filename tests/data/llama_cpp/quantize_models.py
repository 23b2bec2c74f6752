"""Let llama.cpp quantize small models with each mix, and store the type that it chose for each tensor.

Run by hand, `python -m tests.data.llama_cpp.quantize_models`, where llama-cpp-python is installed, which pip compiles:
`types.json` was written with a libllama 0.4.0. The tests compare with it, and need no llama.cpp.
"""

import ctypes
import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import torch

from qtoolkit.formats.gguf.mixes import MIXES
from tests.formats.gguf.test_file_plan import planned, write
from tests.sample_models import random_model

_WIDE = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 256, "intermediate_size": 256}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, 24 layers, 8 heads for 2": ("llama", _WIDE | {"num_hidden_layers": 24}),
    "llama, 80 layers, 8 heads for 2": ("llama", _WIDE | {"num_hidden_layers": 80}),
    "tied, 17 layers, rows of 256 and 288": (
        "llama_tied",
        {"num_hidden_layers": 17, "num_key_value_heads": 4, "hidden_size": 256, "intermediate_size": 288},
    ),
    "qwen2, 8 layers, rows of 192 and 256": (
        "qwen2",
        {"num_hidden_layers": 8, "hidden_size": 192, "intermediate_size": 256},
    ),
    "qwen2, 80 layers, 8 heads for 2": ("qwen2", _WIDE | {"num_hidden_layers": 80}),
    "mixtral, 17 layers, 8 experts": ("mixtral", _WIDE | {"num_hidden_layers": 17, "num_local_experts": 8}),
    "qwen2_moe, 9 layers, 4 experts": (
        "qwen2_moe",
        _WIDE | {"num_hidden_layers": 9, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256},
    ),
    "phi3, 9 layers, 8 heads for 2": ("phi3", _WIDE | {"num_hidden_layers": 9}),
    "gpt2, tied, 9 layers": ("gpt2", {"n_embd": 256, "n_layer": 9, "n_head": 4, "tie_word_embeddings": True}),
}


def types_in(file: Path) -> dict[str, str]:
    """Return the types of a file's matrices: of each kind one, or one for each layer."""
    found: dict[str, dict[int, str]] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        first, *rest = tensor.name.split(".")
        kind, layer = (rest[1], int(rest[0])) if first == "blk" else (first, 0)
        if len(tensor.shape) > 1:
            found.setdefault(kind, {})[layer] = tensor.tensor_type.name
    texts = {kind: [types[layer] for layer in sorted(types)] for kind, types in found.items()}
    return {kind: " ".join(types if len({*types}) > 1 else types[:1]) for kind, types in texts.items()}


def some_importance() -> ctypes.Array[Any]:
    """Return the importance of a tensor that no model has: what counts is that there is some."""
    data = llama_cpp.llama_cpp.llama_model_imatrix_data
    ones = ctypes.cast((ctypes.c_float * 2)(1, 1), ctypes.POINTER(ctypes.c_float))
    array: ctypes.Array[Any] = (data * 2)(data(b"none", ones, 2), data())
    return array


def main() -> None:
    """Write `types.json` beside this file."""
    chosen: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "f16.gguf"), Path(folder, "result.gguf")
        for title, (architecture, changes) in MODELS.items():
            model = random_model(architecture, dtype=torch.float16, vocab_size=32, **changes)
            write(planned(model, "F16"), model, source)
            chosen[title] = {}
            for quant_type in [name for name in MIXES if name not in ("F16", "BF16")]:
                for importance, suffix in ((None, ""), (some_importance(), ", weighted")):
                    parameters = llama_cpp.llama_model_quantize_default_params()
                    parameters.ftype = MIXES[quant_type].file_type
                    parameters.imatrix = importance
                    names = (str(source).encode(), str(result).encode())
                    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(parameters)) == 0
                    chosen[title][quant_type + suffix] = types_in(result)
    Path(__file__).with_name("types.json").write_text(json.dumps(chosen, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
