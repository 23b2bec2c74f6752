"""GPTQ checkpoints of small random models, and the same models in full precision with the weights that those stand for.

Made by rounding, with none of the layers that read them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qtoolkit.tensor.int32_packing import pack_words
from tests.sample_models import random_model

Tensors = dict[str, torch.Tensor]
# Ends of the names, in files, of weights that GPTQ quantizes.
_QUANTIZED = (
    "_proj.weight",
    ".w1.weight",
    ".w2.weight",
    ".w3.weight",
    ".c_attn.weight",
    ".c_proj.weight",
    ".c_fc.weight",
)


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made."""

    architecture: str = "llama"
    bits: int = 4
    group_size: int = 32
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = "gptq"
    scale_dtype: torch.dtype = torch.float16
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [self.architecture, f"{self.bits} bits", f"g{self.group_size}", self.checkpoint_format]
        words += ["sym" if self.sym else "asym", *(["act"] if self.desc_act else [])]
        return " ".join(words)

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size,
            "sym": self.sym,
            "desc_act": self.desc_act,
            "checkpoint_format": self.checkpoint_format,
            "damp_percent": 0.1,
            "true_sequential": False,
            "modules_in_block_to_quantize": [["some", "words"]],
            "meta": {"quantizer": ["someone:1.0"], "nested": {"of": ["any", 3]}},
        }


def write_checkpoint(recipe: Recipe, folder: Path) -> Tensors:
    """Make `folder/dense`, a model, and `folder/gptq`, its checkpoint in GPTQ's format; the tensors of the latter."""
    dense, quantized = folder / "dense", folder / "gptq"
    model = random_model(recipe.architecture, torch.float16, **recipe.changes)
    for path in (dense, quantized):
        model.save_pretrained(path)
    tensors, full = load_file(dense / "model.safetensors"), {}
    is_conv = recipe.architecture == "gpt2"
    for name in list(tensors):
        full[name] = tensors[name].float()
        if name.endswith(_QUANTIZED):
            weight = tensors.pop(name).float()
            stored, weight = quantize(weight.T if is_conv else weight, recipe)
            tensors.update({f"{name.removesuffix('.weight')}.{key}": value for key, value in stored.items()})
            full[name] = weight.T.contiguous() if is_conv else weight
    save_file(full, dense / "model.safetensors", {"format": "pt"})
    write(quantized, tensors, recipe.config)
    return tensors


def write(folder: Path, tensors: Tensors, quantization: dict[str, Any] | None) -> None:
    """Write the weights, and what `config.json` says of them."""
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


def quantize(weight: torch.Tensor, recipe: Recipe) -> tuple[Tensors, torch.Tensor]:
    """The tensors of one layer, W[out, in] rounded, and the weight that they stand for, float32 [out, in]."""
    out_features, in_features = weight.shape
    bits, size = recipe.bits, in_features if recipe.group_size == -1 else recipe.group_size
    groups = torch.arange(in_features) // size
    if recipe.desc_act:
        groups = groups[torch.randperm(in_features)]
    count, largest = int(groups.max()) + 1, 2**bits - 1
    scales = torch.empty(count, out_features)
    zeros = torch.full((count, out_features), 2.0 ** (bits - 1))
    for group in range(count):
        part = weight[:, groups == group]
        scales[group] = part.abs().amax(1) / 2 ** (bits - 1)
        if not recipe.sym:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scales[group] = (high - low) / largest
            zeros[group] = (-low / scales[group]).round().clamp(1, largest)
    scales = scales.clamp(min=1e-4).to(recipe.scale_dtype)
    if recipe.sym:
        # Scales of either sign, as a full-range grid has them.
        scales[:, ::2].neg_()
    # [groups, out] -> [in, out]
    scale, zero = scales.float()[groups], zeros[groups]
    codes = (weight.T / scale + zero).round().clamp(0, largest)
    less = int(recipe.checkpoint_format == "gptq")
    stored = {
        "qweight": pack_words(codes.byte(), bits),
        "qzeros": pack_words((zeros.T - less).byte(), bits).T.contiguous(),
        "scales": scales,
        "g_idx": groups.int(),
    }
    return stored, ((codes - zero) * scale).T.contiguous()
