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
from seen import keep_seen

EXACT, ROUNDED = 1e-5, 0.1
# Of AWQ, whose zero points mlx-lm turns into minima in float16.
MINIMA = 5e-3


def weight_of(layer: object) -> mx.array:
    """The float32 weight of a quantized layer."""
    scales, biases = (layer[name].astype(mx.float32) for name in ("scales", "biases"))
    return mx.dequantize(layer["weight"], scales, biases, group_size=layer.group_size, bits=layer.bits)


def error_of(model: Callable[[mx.array], mx.array], wanted: dict[str, mx.array]) -> float:
    """How far a model's logits are from those that are wanted, relative to these."""
    logits = model(wanted["tokens"]).astype(mx.float32)
    return (mx.linalg.norm(logits - wanted["logits"]) / mx.linalg.norm(wanted["logits"])).item()


def readers_in(path: Path) -> dict[str, bool]:
    """Which readers load a checkpoint, by the reader contract, as far as the writer keeps what it says of them."""
    readers: dict[str, bool] = json.loads((path / "claims.json.test").read_text())["readers"]
    return readers


def refusal(path: Path) -> list[str]:
    """A problem where mlx-lm reads what it does not by the contract; it may refuse it, or compute something else."""
    wanted = mx.load(str(path / "expected.safetensors.test"), format="safetensors")
    try:
        error = error_of(load_model(path)[0], wanted)
    except Exception as error:  # noqa: BLE001 whatever it raises is its refusal
        print(f"{path.name:<32} refused, as the contract says: {type(error).__name__}: {str(error)[:100]}")
        return []
    print(f"{path.name:<32} loaded, relative error of the logits {error:.1e}")
    # A NaN is not below.
    return [f"{path.name}: read, against the contract"] if error < ROUNDED else []


def otherwise(path: Path) -> list[str]:
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
    # Through 30 blocks sums in another order are further apart, and rounded ones very far. A NaN is not below.
    near = exact < EXACT and rounded < ROUNDED if names else exact < MINIMA
    return [*([] if near else [f"{path.name}: logits"]), *(f"{path.name}: {name}" for name in other)]


def problems(path: Path) -> list[str]:
    """What mlx-lm does with a checkpoint that the contract does not say."""
    loads = readers_in(path)["mlx-lm"]
    found = otherwise(path) if loads else refusal(path)
    keep_seen(path, "mlx-lm", loads != bool(found))
    return found


if __name__ == "__main__":
    every = sorted(file.parent for name in sys.argv[1:] for file in Path(name).glob("*/expected.safetensors.test"))
    folders = [folder for folder in every if "mlx-lm" in readers_in(folder)]
    if not folders:
        sys.exit("mlx-lm was given no checkpoint: run the scripts that write them first")
    found = [problem for folder in folders for problem in problems(folder)]
    sys.exit(f"mlx-lm reads these differently: {', '.join(found)}" if found else 0)
