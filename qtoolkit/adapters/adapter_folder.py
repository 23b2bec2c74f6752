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
    rank: int,
    base: str,
    revision: str | None,
    transposed: bool = False,
) -> None:
    """Write an adapter that repairs a model; its product is added to weights as it is: `lora_alpha` is the rank.

    Args:
        folder: an empty folder.
        tensors: A[rank, in] as "LAYER.lora_A.weight" and B[out, rank] as "LAYER.lora_B.weight", by full names.
        rank: of all layers.
        base: what others find the model by that it belongs to.
        revision: its commit; None where it has none.
        transposed: whether the model holds its weights as [in, out], as GPT-2's Conv1D does.
    """
    layers = sorted({name.rpartition(".lora_")[0] for name in tensors})
    config: dict[str, Any] = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "revision": revision,
        "target_modules": layers,
        "task_type": "CAUSAL_LM",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    named = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt", **REPAIRS})
