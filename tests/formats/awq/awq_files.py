"""AWQ checkpoints of small models, packed by AutoAWQ's formula written out, and the models that they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.formats.quantized_folders import write
from tests.sample_models import random_model

Tensors = dict[str, torch.Tensor]
_LINEAR = ("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made; layers that have a part of `left` in their names stay as they are."""

    architecture: str = "llama"
    group_size: int = 32
    dtype: torch.dtype = torch.float16
    left: tuple[str, ...] = ()
    head: bool = False

    def __str__(self) -> str:
        return f"{self.architecture} g{self.group_size} {self.dtype}{' left' * bool(self.left)}{' head' * self.head}"

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says, as AutoAWQ writes it."""
        return {
            "bits": 4,
            "group_size": self.group_size,
            "modules_to_not_convert": list(self.left) or None,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        }


def write_checkpoint(recipe: Recipe, folder: Path) -> Tensors:
    """Make `folder/dense`, a model, and `folder/packed`, its checkpoint; the tensors of the latter."""
    dense, packed = folder / "dense", folder / "packed"
    model = random_model(recipe.architecture, recipe.dtype)
    for path in (dense, packed):
        model.save_pretrained(path)
    tensors, full = load_file(dense / "model.safetensors"), {}
    for name in list(tensors):
        full[name] = tensors[name].float()
        ends = (*_LINEAR, "lm_head.weight") if recipe.head else _LINEAR
        if name.endswith(ends) and not any(part in name for part in recipe.left):
            stored, full[name] = quantize(tensors.pop(name), recipe.group_size)
            tensors |= {f"{name.removesuffix('.weight')}.{key}": value for key, value in stored.items()}
    save_file(full, dense / "model.safetensors", {"format": "pt"})
    write(packed, tensors, recipe.config)
    return tensors


def quantize(weight: torch.Tensor, group_size: int) -> tuple[Tensors, torch.Tensor]:
    """The tensors of one layer, W[out, in] rounded in float64, and the weight that they stand for, float32."""
    numbers = weight.double().numpy()
    size = numbers.shape[1] if group_size == -1 else group_size
    grouped = numbers.reshape(len(numbers), -1, size)  # [out, groups, size]
    low, high = grouped.min(2).clip(max=0), grouped.max(2).clip(min=0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float64)  # [out, groups]
    zero = (-low / scale).round().clip(0, 15)
    codes = (grouped / scale[..., None] + zero[..., None]).round().clip(0, 15)
    full = ((codes - zero[..., None]) * scale[..., None]).reshape(numbers.shape)
    stored = {
        # [out, in] -> [in, out], and [out, groups] -> [groups, out]
        "qweight": packed_by_the_formula(torch.from_numpy(codes.reshape(numbers.shape).T)),
        "qzeros": packed_by_the_formula(torch.from_numpy(zero.T)),
        "scales": torch.from_numpy(scale.T.copy()).half(),
    }
    return stored, torch.from_numpy(full).float()


def packed_by_the_formula(codes: torch.Tensor) -> torch.Tensor:
    """Pack [n, m] as AutoAWQ's `WQLinear_GEMM.from_linear` does, number by number."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    numbers = codes.numpy().astype(np.uint32)
    words = np.zeros((numbers.shape[0], numbers.shape[1] // 8), dtype=np.uint32)
    for column in range(words.shape[1]):
        for place in range(8):
            words[:, column] |= numbers[:, column * 8 + order[place]] << np.uint32(4 * place)
    return torch.from_numpy(words.view(np.int32))
