"""compressed-tensors checkpoints of small models, packed number by number, and the models that they stand for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.formats.quantized_folders import write
from tests.sample_models import random_model

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made; `bits_of` gives layers by the end of their names other bits."""

    architecture: str = "llama"
    bits: int = 4
    group_size: int = 32
    sym: bool = True
    bits_of: dict[str, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        kind = "sym" if self.sym else "asym"
        return f"{self.architecture} {self.bits} bits g{self.group_size} {kind}{' mixed' if self.bits_of else ''}"

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says, as llm-compressor writes it."""
        groups = [(["Linear"], self.bits), *(([f"re:.*{end}$"], bits) for end, bits in self.bits_of.items())]
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
            "ignore": ["lm_head"],
            "config_groups": {f"group_{i}": self.scheme(targets, bits) for i, (targets, bits) in enumerate(groups)},
            "version": "0.12.2",
        }

    def scheme(self, targets: list[str], bits: int) -> dict[str, Any]:
        weights = {
            "num_bits": bits,
            "type": "int",
            "symmetric": self.sym,
            "strategy": "channel" if self.group_size == -1 else "group",
            "group_size": None if self.group_size == -1 else self.group_size,
            "dynamic": False,
            "actorder": None,
            "observer": "minmax",
            "observer_kwargs": {},
        }
        return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}


def write_checkpoint(recipe: Recipe, folder: Path) -> Tensors:
    """Make `folder/dense`, a model, and `folder/packed`, its checkpoint; the tensors of the latter."""
    dense, packed = folder / "dense", folder / "packed"
    model = random_model(recipe.architecture, recipe.dtype)
    for path in (dense, packed):
        model.save_pretrained(path)
    tensors, full = load_file(dense / "model.safetensors"), {}
    for name in list(tensors):
        full[name] = tensors[name].float()
        if name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
            stem = name.removesuffix(".weight")
            bits = next((bits for end, bits in recipe.bits_of.items() if stem.endswith(end)), recipe.bits)
            stored, full[name] = quantize(tensors.pop(name).float(), recipe, bits)
            tensors.update({f"{stem}.{key}": value for key, value in stored.items()})
    save_file(full, dense / "model.safetensors", {"format": "pt"})
    write(packed, tensors, recipe.config)
    return tensors


def quantize(weight: torch.Tensor, recipe: Recipe, bits: int) -> tuple[Tensors, torch.Tensor]:
    """The tensors of one layer, W[out, in] rounded, and the weight that they stand for, float32 [out, in]."""
    out_features, in_features = weight.shape
    size = in_features if recipe.group_size == -1 else recipe.group_size
    largest = 2**bits - 1
    grouped = weight.unflatten(1, (-1, size))  # [out, groups, size]
    zero = torch.full(grouped.shape[:2], 2.0 ** (bits - 1))
    scale = grouped.abs().amax(2) / 2 ** (bits - 1)
    if not recipe.sym:
        low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
        scale = (high - low) / largest
        zero = (-low / scale).round().clamp(0, largest)
    scale = scale.to(recipe.dtype)
    codes = (grouped / scale.float()[..., None] + zero[..., None]).round().clamp(0, largest)
    full = ((codes - zero[..., None]) * scale.float()[..., None]).flatten(1)
    stored = {
        "weight_packed": packed_rows(codes.flatten(1), bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor([out_features, in_features]),
    }
    if not recipe.sym:
        stored["weight_zero_point"] = packed_rows(zero.T, bits).T.contiguous()
    return stored, full


def packed_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [n, m] as int32 [n, ceil(m * bits / 32)]: each row one long number, code i its bits `bits * i` and on."""
    words = -(-codes.shape[1] * bits // 32)
    rows = []
    for row in codes.long().tolist():
        number = sum(code << bits * index for index, code in enumerate(row))
        rows.append(torch.frombuffer(bytearray(number.to_bytes(4 * words, "little")), dtype=torch.int32))
    return torch.stack(rows)
