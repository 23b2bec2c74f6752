"""Compare what each layer of a reader computes from the inputs that it was given, where inputs are rounded to 8 bits.

An input between two levels falls to the other one by the last bit: then the inputs of the next layer differ by some
tenths of a percent, more of them fall to the other side, and behind two blocks the logits of one program in float16 are
as far from its own in float32 as if it did not round at all (FP8: 0.059 and 0.066 of their deviation, where another one
in float32 has the very same). So logits cannot hold 2 %; each layer can, given the reader's own inputs. Needs torch and
safetensors.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "weights.safetensors.test"
# Of servers, by the last part of their names.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# Largest codes; of float8 e4m3fn the largest number.
LARGEST = {"int8": 127.0, "float8": 448.0}


def keep_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write the weights that the codes of each layer stand for, (outputs, inputs), beside the checkpoint."""
    save_file({name: weight.float().contiguous() for name, weight in weights.items()}, path / WEIGHTS)


def weight_of(name: str, weights: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """The weight of a layer of a reader, or of those that it fuses; None for another layer."""
    start, _, last = name.rpartition(".")
    parts = [f"{start}.{part}" for part in FUSED.get(last, (last,))]
    return torch.cat([weights[part] for part in parts]) if all(part in weights for part in parts) else None


def rounded(x: torch.Tensor, stored: dict[str, Any]) -> torch.Tensor:
    """Inputs x[..., inputs] to 8 bits and back, with a scale for each token, or for 128 neighbours of blocks."""
    size = 128 if 128 in stored["group_sizes"] else x.shape[-1]
    groups = x.unflatten(-1, (-1, size))  # (..., inputs) -> (..., groups, size)
    scale = groups.abs().amax(-1, keepdim=True) / LARGEST[stored["input_type"]]
    levels = groups / scale.where(scale > 0, 1.0)
    levels = levels.round() if stored["input_type"] == "int8" else levels.to(torch.float8_e4m3fn).float()
    return (levels * scale).flatten(-2)  # (..., groups, size) -> (..., inputs)


def watch(modules: Iterable[tuple[str, torch.nn.Module]], path: Path, stored: dict[str, Any]) -> dict[str, float]:
    """Note from now on how far the outputs of each layer are from those that its weight makes of its inputs.

    Returns root mean squares by the names of the layers, in the root mean square of the outputs; filled as the model
    computes. A program may round its inputs or not (some expand codes where a processor has no such product): what is
    nearer counts.
    """
    apart: dict[str, float] = {}
    weights = load_file(path / WEIGHTS)
    for name, module in modules:
        weight = weight_of(name, weights)
        if weight is not None:
            module.register_forward_hook(_noting(name, weight, stored, apart))
    return apart


def _noting(name: str, weight: torch.Tensor, stored: dict[str, Any], apart: dict[str, float]) -> Any:
    """A hook that notes the distance of one layer."""

    def note(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        x = inputs[0].float()
        y = (output[0] if isinstance(output, tuple) else output).float()
        wanted = (x @ weight.T, rounded(x, stored) @ weight.T)
        apart[name] = min(((y - one).norm() / one.norm()).item() for one in wanted)

    return note
