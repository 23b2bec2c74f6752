"""Load checkpoints of `write_mlx.py` with mlx-lm, and compare weights and logits; in its environment, without torch.

Weights are to be equal bit for bit, and logits, in float32, up to the order of sums. In the type of the file mlx on a
CPU rounds each sum: that only shows that it computes something.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import load_model

EXACT, ROUNDED = 1e-5, 0.1


def weight_of(layer: object) -> mx.array:
    """The float32 weight of a quantized layer."""
    scales, biases = (layer[name].astype(mx.float32) for name in ("scales", "biases"))
    return mx.dequantize(layer["weight"], scales, biases, group_size=layer.group_size, bits=layer.bits)


def error_of(model: Callable[[mx.array], mx.array], wanted: dict[str, mx.array]) -> float:
    """How far a model's logits are from those that are wanted, relative to these."""
    logits = model(wanted["tokens"]).astype(mx.float32)
    return (mx.linalg.norm(logits - wanted["logits"]) / mx.linalg.norm(wanted["logits"])).item()


def problems(path: Path) -> list[str]:
    """What mlx-lm reads otherwise than qtoolkit."""
    model, _ = load_model(path)
    wanted = mx.load(str(path / "expected.safetensors.test"), format="safetensors")
    layers = dict(model.named_modules())
    names = {key.removeprefix("weight of "): value for key, value in wanted.items() if key.startswith("weight of ")}
    other = [name for name, weight in names.items() if not mx.array_equal(weight_of(layers[name]), weight)]
    rounded = error_of(model, wanted)
    model.set_dtype(mx.float32)
    exact = error_of(model, wanted)
    print(f"{path.name:<32} {len(names)} weights, relative error of the logits {exact:.1e}, {rounded:.1e} in its type")
    # A NaN is not below.
    far = [] if exact < EXACT and rounded < ROUNDED else [f"{path.name}: logits"]
    return [*far, *(f"{path.name}: {name}" for name in other)] if names else [f"{path.name}: no weights to compare"]


if __name__ == "__main__":
    folders = sorted(file.parent for file in Path(sys.argv[1]).glob("*/expected.safetensors.test"))
    if not folders:
        sys.exit("mlx-lm was given no checkpoint: run write_mlx.py first")
    found = [problem for folder in folders for problem in problems(folder)]
    sys.exit(f"mlx-lm reads these differently: {', '.join(found)}" if found else 0)
