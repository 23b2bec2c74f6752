"""Write a LoRA adapter as peft does: a config, and two matrices of each layer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qtoolkit.checkpoints.filenames import ADAPTER_CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# In the metadata of the weight file, which goes wherever the matrices go: they make good what these codes have lost.
REPAIRS = {"qtoolkit": "repair"}
# What peft puts before the names of a model's modules, and what it calls their two matrices.
PREFIX = "base_model.model."
A, B = "lora_A.weight", "lora_B.weight"


def write_adapter(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    base: str,
    revision: str | None,
    scaling: float = 1.0,
    transposed: bool = False,
) -> None:
    """Write an adapter that repairs a model.

    `lora_alpha` is the rank times the scaling, also where layers have ranks of their own (`rank_pattern`), so that
    programs which know no such patterns scale them alike.

    Args:
        folder: an empty folder.
        tensors: A[rank, in] as "LAYER.lora_A.weight" and B[out, rank] as "LAYER.lora_B.weight", by full names.
        base: what others find the model by that it belongs to.
        revision: its commit; None where it has none.
        scaling: what products are multiplied with.
        transposed: whether the model holds its weights as [in, out], as GPT-2's Conv1D does.
    """
    layers = sorted({name.rpartition(".lora_")[0] for name in tensors})
    ranks = {layer: len(tensors[f"{layer}.{A}"]) for layer in layers}
    rank = max(ranks.values())
    others = {layer: own for layer, own in ranks.items() if own != rank}
    config: dict[str, Any] = {
        "alpha_pattern": {layer: _alpha(own, scaling) for layer, own in others.items()},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "lora_alpha": _alpha(rank, scaling),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": others,
        "revision": revision,
        "target_modules": layers,
        "task_type": "CAUSAL_LM",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    named = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt", **REPAIRS})


def _alpha(rank: int, scaling: float) -> float:
    """Return peft's `lora_alpha`: a whole number where it can be one, which some readers want."""
    alpha = float(rank * scaling)
    return int(alpha) if alpha.is_integer() else alpha
