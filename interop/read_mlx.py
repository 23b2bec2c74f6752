"""Load checkpoints of `write*.py` with mlx-lm, and compare weights and logits; in its environment, without torch.

Weights are to be equal bit for bit, and logits, in float32, up to the order of sums. In the type of the file mlx on a
CPU rounds each sum: that only shows that it computes something.
"""

import json
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


def claimed(path: Path) -> bool:
    """Whether mlx-lm is to load a checkpoint, by the reader contract where the writer kept what it says."""
    claims = path / "claims.json.test"
    return json.loads(claims.read_text())["readers"]["mlx-lm"] if claims.is_file() else True


def refusal(path: Path) -> list[str]:
    """A problem where mlx-lm loads what the contract says that it does not."""
    try:
        load_model(path)
    except Exception as error:  # noqa: BLE001 whatever it raises is its refusal
        print(f"{path.name:<32} refused, as the contract says: {type(error).__name__}: {str(error)[:100]}")
        return []
    return [f"{path.name}: loaded, against the contract"]


def problems(path: Path) -> list[str]:
    """What mlx-lm reads otherwise than qtoolkit."""
    if not claimed(path):
        return refusal(path)
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
    return [*far, *(f"{path.name}: {name}" for name in other)]


if __name__ == "__main__":
    folders = sorted(file.parent for file in Path(sys.argv[1]).glob("*/expected.safetensors.test"))
    if not folders:
        sys.exit("mlx-lm was given no checkpoint: run write_mlx.py first")
    found = [problem for folder in folders for problem in problems(folder)]
    sys.exit(f"mlx-lm reads these differently: {', '.join(found)}" if found else 0)
