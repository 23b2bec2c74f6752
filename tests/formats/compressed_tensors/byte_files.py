"""compressed-tensors checkpoints in 8 bits as llm-compressor writes them, made with plain loops and no code of ours."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.formats.quantized_folders import write

Tensors = dict[str, torch.Tensor]
SIZES = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}


def model() -> LlamaForCausalLM:
    """A Llama whose layers are blocks of 128 x 128, in bfloat16."""
    torch.manual_seed(5)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)).to(torch.bfloat16).eval()


def config_of(kind: str) -> dict[str, Any]:
    """The `quantization_config` of the presets FP8_DYNAMIC ("channel"), FP8_BLOCK ("block") and W8A8 ("int")."""
    number = "int" if kind == "int" else "float"
    weights = {"num_bits": 8, "type": number, "symmetric": True, "strategy": "block" if kind == "block" else "channel"}
    weights |= {"dynamic": False, "group_size": None, "observer": "memoryless_minmax"}
    inputs: dict[str, Any] = {"num_bits": 8, "type": number, "symmetric": True, "dynamic": True, "strategy": "token"}
    if kind == "block":
        weights["block_structure"] = [128, 128]
        inputs |= {"strategy": "group", "group_size": 128}
    stored = f"{number}-quantized"
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": stored,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {**group, "format": stored}},
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.20.1",
    }


def write_checkpoint(kind: str, folder: Path) -> tuple[Tensors, Tensors]:
    """Make `folder/packed`; its tensors, and the weights that they stand for, float64."""
    packed = folder / "packed"
    model().save_pretrained(packed)
    tensors, full = load_file(packed / "model.safetensors"), {}
    largest = 127 if kind == "int" else 448
    for name in list(tensors):
        if not name.endswith("_proj.weight"):
            continue
        weight = tensors[name].double()
        rows, columns = (128, 128) if kind == "block" else (1, weight.shape[1])
        scale = torch.empty(len(weight) // rows, weight.shape[1] // columns, dtype=torch.bfloat16)
        levels = torch.empty_like(weight)
        for i in range(len(scale)):
            for j in range(scale.shape[1]):
                part = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
                scale[i, j] = weight[part].abs().max() / largest
                levels[part] = (weight[part] / scale[i, j].double()).clamp(-largest, largest)
        codes = levels.round().to(torch.int8) if kind == "int" else levels.float().to(torch.float8_e4m3fn)
        tensors[name], tensors[f"{name}_scale"] = codes, scale
        full[name] = codes.double() * scale.double().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    write(packed, tensors, config_of(kind))
    return tensors, full
