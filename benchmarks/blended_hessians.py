"""Measure with how many tokens the Hessian of all experts should count beside that of an expert with few of its own.

The mixture is made of a trained model: the tokens that enter an MLP of SmolLM2 are sent to eight experts by spherical
k-means, and an expert has a slice of the MLP's weights. Printed is the geometric mean of the squared error of outputs
on 300 tokens of the expert that it was not calibrated with, as a share of their squares, for n own tokens and a weight
k of those of all experts.

    PYTHONPATH=. python benchmarks/blended_hessians.py FOLDER TEXT
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize, silu
from transformers import AutoModelForCausalLM, AutoTokenizer

from qtoolkit.methods.gptq.solver import column_order, factor, solve
from qtoolkit.tensor.qparams import search_qparams

LAYERS, EXPERTS, WIDTH, HELD_OUT = (4, 16, 26), 8, 192, 300
OWN, WEIGHTS = (0, 4, 16, 64, 256, 1000), (0, 8, 32, 128, 512, 2048)


def inputs_of(folder: str, text: str) -> dict[int, tuple[Any, torch.Tensor]]:
    """Return the MLPs of some layers, each with what enters it, float32 [tokens, hidden]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(Path(text).read_text(), return_tensors="pt").input_ids[0]
    seen: dict[int, list[torch.Tensor]] = defaultdict(list)
    for layer in LAYERS:
        mlp = model.model.layers[layer].mlp
        mlp.register_forward_pre_hook(lambda _, args, layer=layer: seen[layer].append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for samples in tokens[: 40 * 512].reshape(40, 512).split(4):
            model(samples)
    return {layer: (model.model.layers[layer].mlp, torch.cat(seen[layer])) for layer in LAYERS}


def routed(x: torch.Tensor) -> torch.Tensor:
    """Return the expert of each token, int64 [tokens]."""
    directions = normalize(x - x.mean(0), dim=1)
    centres = directions[torch.randperm(len(x))[:EXPERTS]]
    for _ in range(12):
        chosen = (directions @ centres.T).argmax(1)
        centres = torch.stack([normalize(directions[chosen == index].mean(0), dim=0) for index in range(EXPERTS)])
    return (directions @ centres.T).argmax(1)


def error_of(weight: torch.Tensor, hessian: torch.Tensor, test: torch.Tensor, bits: int) -> float:
    """Return the squared error of the outputs of a quantized weight on `test`, as a share of their squares."""
    order = column_order(hessian.diagonal().clone(), "activation")
    lower, diagonal, _ = factor(hessian.clone(), order, 0.03)
    columns = weight.T.contiguous()
    options: dict[str, Any] = {"bits": bits, "group_size": 64, "sym": True, "full_range": True}
    qparams = search_qparams(columns, hessian.diagonal().clone(), **options, steps=20, smallest=0.4)
    groups = torch.arange(len(hessian)) // 64
    codes, _ = solve(columns, lower, diagonal, order, qparams, groups)
    change = qparams.scale[groups] * (codes.float() - qparams.zero_point[groups]) - columns
    return ((test @ change).square().sum() / (test @ columns).square().sum()).item()


def measure(mlp: Any, x: torch.Tensor, bits: int, add: Callable[[tuple[str, int, int], float], None]) -> None:
    """Measure three experts of one layer."""
    expert_of = routed(x)
    for expert in range(3):
        own = x[expert_of == expert]
        if len(own) < 2 * HELD_OUT:
            continue
        part = slice(expert * WIDTH, (expert + 1) * WIDTH)
        gate, up = mlp.gate_proj.weight.detach()[part], mlp.up_proj.weight.detach()[part]
        down = mlp.down_proj.weight.detach()[:, part]
        for name, weight in (("gate", gate), ("down", down)):
            inputs = x if name == "gate" else silu(x @ gate.T) * (x @ up.T)
            everything = inputs[torch.randperm(len(x))[:2048]]
            of_all = everything.T @ everything / len(everything)
            shuffled = inputs[expert_of == expert][torch.randperm(len(own))]
            test, train = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
            for count in OWN:
                for weight_of_all in WEIGHTS:
                    if count or weight_of_all:
                        hessian = train[:count].T @ train[:count] + weight_of_all * of_all
                        add((name, count, weight_of_all), error_of(weight, hessian, test, bits))


def main(folder: str, text: str) -> None:
    """Print a table for 4 and 3 bits."""
    torch.manual_seed(0)
    layers = inputs_of(folder, text)
    for bits in (4, 3):
        errors: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        for mlp, x in layers.values():
            measure(mlp, x, bits, lambda key, error: errors[key].append(error))  # noqa: B023
        for name in ("gate", "down"):
            print(f"{bits} bits, {name}_proj; k = " + "  ".join(f"{k:7d}" for k in WEIGHTS))
            for count in OWN:
                means = {k: torch.tensor(errors[name, count, k]).log().mean().exp() for k in WEIGHTS if count or k}
                row = "  ".join(f"{means[k]:.5f}" if k in means else "      -" for k in WEIGHTS)
                print(f"  n = {count:4d}  {row}")


if __name__ == "__main__":
    main(*sys.argv[1:])
