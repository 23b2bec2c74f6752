"""Small random models that are stored as FP8, MXFP4 and NVFP4, by literal loops, for tests of what expands them."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

FP8 = torch.float8_e4m3fn
WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]
# What four bits of MXFP4 mean: gpt-oss's README, and OCP MX 1.0, table 5.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def store_as_float8(
    model: PreTrainedModel, folder: Path, config: dict[str, Any], block: tuple[int, int], left: tuple[str, ...] = ()
) -> Path:
    """Save a model with the linear layers of its blocks as FP8, a scale for each block: loops over blocks."""
    model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    for name, weight in list(tensors.items()):
        if name.endswith("proj.weight") and not any(part in name for part in left):
            tensors[name], tensors[f"{name}_scale_inv"] = float8_blocks(weight, block)
    return write(folder, tensors, config)


def float8_blocks(weight: torch.Tensor, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a matrix, block by block; the last blocks may be smaller."""
    out, inputs = weight.shape
    codes = torch.zeros(weight.shape, dtype=FP8)
    scales = torch.zeros(math.ceil(out / block[0]), math.ceil(inputs / block[1]))
    for row in range(scales.shape[0]):
        for column in range(scales.shape[1]):
            rows = slice(row * block[0], (row + 1) * block[0])
            columns = slice(column * block[1], (column + 1) * block[1])
            part = weight[rows, columns].float()
            scales[row, column] = part.abs().max() / 448
            codes[rows, columns] = (part / scales[row, column]).to(FP8)
    return codes, scales


def expand_blocks(codes: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Every weight by itself, in float64, rounded once to bfloat16."""
    weight = torch.zeros(codes.shape, dtype=torch.float64)
    values = codes.double()
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            weight[row, column] = values[row, column] * scales[row // block[0], column // block[1]].double()
    return weight.to(torch.bfloat16)


def write(folder: Path, tensors: Tensors, quantization: dict[str, Any] | None = None) -> Path:
    """Replace the weights of a folder, and what its config says of them."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    if quantization is not None:
        values = json.loads((folder / "config.json").read_text())
        values["quantization_config"] = quantization
        (folder / "config.json").write_text(json.dumps(values))
    return folder


def gpt_oss(seed: int = 0) -> PreTrainedModel:
    """A small random gpt-oss: two blocks, four experts, of which each token takes two."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16, "sliding_window": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    tokens = {"vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = CONFIG_MAPPING["gpt_oss"](**shape, **heads, **tokens, tie_word_embeddings=False)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def store_as_mxfp4(model: PreTrainedModel, folder: Path, seed: int = 1) -> Path:
    """Save a gpt-oss with random MXFP4 codes and exponents as its experts, in the layout of the published files."""
    model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(seed)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, inputs, out = tensors.pop(name).shape
        shape = (experts, out, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
        # Weights of about 0.1.
        tensors[f"{name}_scales"] = torch.randint(120, 126, shape, generator=generator, dtype=torch.uint8)
    left = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    return write(folder, tensors, {"quant_method": "mxfp4", "modules_to_not_convert": left})


def expand_nibbles(blocks: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
    """Every number of [experts, out, groups, 16] by itself, as the bfloat16 weights [experts, in, out] of gpt-oss."""
    experts, out, groups, size = blocks.shape
    weight = torch.zeros(experts, groups * size * 2, out, dtype=torch.float64)
    for expert in range(experts):
        for row in range(out):
            for group in range(groups):
                power = 2.0 ** (int(exponents[expert, row, group]) - 127)
                for index, byte in enumerate(blocks[expert, row, group].tolist()):
                    column = 2 * (group * size + index)
                    weight[expert, column, row] = E2M1[byte % 16] * power
                    weight[expert, column + 1, row] = E2M1[byte // 16] * power
    return weight.to(torch.bfloat16)


# compressed-tensors' layouts of 4 bits -> numbers that share a scale.
FLOAT4 = {"mxfp4-pack-quantized": 32, "nvfp4-pack-quantized": 16}


def float4_parts(out: int, inputs: int, layout: str, seed: int = 0) -> Tensors:
    """Random codes and scales of a weight [out, inputs] of about 0.1, by the ends of their names."""
    generator = torch.Generator().manual_seed(seed)
    groups = inputs // FLOAT4[layout]
    parts = {"weight_packed": torch.randint(256, (out, inputs // 2), generator=generator, dtype=torch.uint8)}
    if layout.startswith("mx"):
        return parts | {"weight_scale": torch.randint(120, 126, (out, groups), generator=generator, dtype=torch.uint8)}
    scales = (100 + 300 * torch.rand(out, groups, generator=generator)).to(FP8)
    return parts | {"weight_scale": scales, "weight_global_scale": torch.tensor([7000.0 + seed])}


def expand_float4(parts: Tensors, layout: str) -> torch.Tensor:
    """Every weight by itself, rounded once to bfloat16; NVFP4's factor of a group is a float32."""
    packed, scales = parts["weight_packed"].tolist(), parts["weight_scale"]
    if layout.startswith("mx"):
        factors = 2.0 ** (scales.double() - 127)
    else:
        factors = (scales.float() / parts["weight_global_scale"]).double()
    rows = [
        [
            E2M1[code] * float(factors[row, column // FLOAT4[layout]])
            for column, code in enumerate(code for byte in line for code in (byte % 16, byte // 16))
        ]
        for row, line in enumerate(packed)
    ]
    return torch.tensor(rows, dtype=torch.float64).float().to(torch.bfloat16)


def float4_config(layout: str) -> dict[str, Any]:
    """The `quantization_config` of llm-compressor's presets MXFP4A16 and NVFP4A16."""
    strategy = "group" if layout.startswith("mx") else "tensor_group"
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": strategy, "group_size": FLOAT4[layout]}
    weights |= {"dynamic": False, "scale_dtype": "torch.uint8" if layout.startswith("mx") else "torch.float8_e4m3fn"}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {**group, "format": layout}},
    }


def store_as_float4(model: PreTrainedModel, folder: Path, layout: str) -> dict[str, torch.Tensor]:
    """Save a model with random codes as the linear layers of its blocks; the weights that these stand for."""
    model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    expected = {}
    for seed, name in enumerate([name for name in tensors if name.endswith("proj.weight")]):
        parts = float4_parts(*tensors.pop(name).shape, layout, seed)
        stem = name.removesuffix(".weight")
        tensors |= {f"{stem}.{end}": part for end, part in parts.items()}
        expected[name] = expand_float4(parts, layout)
    write(folder, tensors, float4_config(layout))
    return expected
