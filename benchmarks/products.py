"""4-bit layers of one group size, whoever chose their codes, side by side; and prompts where bfloat16 is slow.

Run `python benchmarks/products.py`. Milliseconds of the fastest of many products by one layer, one thread.
"""

import time
from functools import partial
from typing import Any
from unittest.mock import patch

import torch

from qtoolkit.formats.gptq.tensors import GPTQTensors
from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import QuantizedLinear, StoredTensors
from qtoolkit.tensor import processor
from qtoolkit.tensor.int32_packing import pack_words
from qtoolkit.tensor.rounding import round_weight

SHAPES = ((1024, 1024), (1536, 576))
TOKENS = (1, 32, 128)
PROMPT = 256
REPEATS, ROUNDS = 20, 5


def layer_of(stored: StoredTensors, tensors: dict[str, torch.Tensor]) -> QuantizedLinear:
    """Return a layer with these tensors, prepared."""
    layer = QuantizedLinear(stored, bias=False, device="meta")
    for name, tensor in tensors.items():
        setattr(layer, name, tensor)
    return layer.prepare()


def rounded(weight: torch.Tensor, *, bits: int, group_size: int, symmetric: bool = True) -> QuantizedLinear:
    """Return absmax or zero-point codes of W[out, in]; a group size of -1 is one scale an output."""
    granularity = "channel" if group_size == -1 else "group"
    options: dict[str, Any] = {
        "bits": bits,
        "granularity": granularity,
        "group_size": group_size,
        "symmetric": symmetric,
    }
    stored = NativeTensors(weight.shape[0], weight.shape[1], **options)
    _, scale_dtype = stored.tensors()["scale"]
    codes = round_weight(weight, **options, scale_dtype=scale_dtype)
    return layer_of(stored, stored.store(*codes))


def gptq(weight: torch.Tensor, *, bits: int, group_size: int) -> QuantizedLinear:
    """Return a symmetric GPTQ layer of the shape of W[out, in], its codes drawn."""
    stored = GPTQTensors(weight.shape[0], weight.shape[1], bits=bits, group_size=group_size, centered=True)
    shapes = stored.tensors()
    groups = shapes["scales"][0][0]
    middle = torch.full((len(weight), groups), 2 ** (bits - 1) - 1, dtype=torch.uint8)
    tensors = {
        "qweight": torch.randint(-(2**31), 2**31, shapes["qweight"][0]).to(torch.int32),
        "qzeros": pack_words(middle, bits).T.contiguous(),
        "scales": torch.full(shapes["scales"][0], 0.01, dtype=torch.float16),
        "g_idx": (torch.arange(weight.shape[1]) // stored.inputs_per_scale).to(torch.int32),
    }
    return layer_of(stored, tensors)


def fastest(*runs: "partial[torch.Tensor]") -> list[float]:
    """Return milliseconds of each product, its fastest of all rounds, in which they take turns."""
    best = [float("inf")] * len(runs)
    for _ in range(ROUNDS):
        for index, run in enumerate(runs):
            run()
            for _ in range(REPEATS):
                started = time.perf_counter()
                run()
                best[index] = min(best[index], 1000 * (time.perf_counter() - started))
    return best


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        print("| layer [out, in] | group | tokens | absmax, 4 bits | GPTQ, 4 bits | ratio |")
        print("|---|---|---|---|---|---|")
        for shape in SHAPES:
            weight = torch.randn(shape) * 0.02
            for group_size in (32, 64, 128, -1):
                if shape[1] % group_size:
                    continue
                ours, peer = (make(weight, bits=4, group_size=group_size) for make in (rounded, gptq))
                for tokens in TOKENS:
                    x = torch.randn(tokens, shape[1]).bfloat16()
                    one, other = fastest(partial(ours, x), partial(peer, x))
                    print(f"| {list(shape)} | {group_size} | {tokens} | {one:.3f} | {other:.3f} | {one / other:.2f} |")
        print(f"\n{PROMPT} tokens, [1024, 1024], bfloat16 taken for slow:\n")
        print("| layer | bfloat16 | float32 | ratio |\n|---|---|---|---|")
        weight, x = torch.randn(1024, 1024) * 0.02, torch.randn(PROMPT, 1024)
        layers = {
            f"{name}, {bits} bits, group {group_size}": layer
            for bits in (4, 8)
            for group_size in (64, -1)
            for name, layer in (
                ("absmax", rounded(weight, bits=bits, group_size=group_size)),
                ("zero-point", rounded(weight, bits=bits, group_size=group_size, symmetric=False)),
                ("GPTQ", gptq(weight, bits=bits, group_size=group_size)),
            )
        }
        with patch.object(processor, "bfloat16_is_fast", lambda: False):
            for name, layer in layers.items():
                one, other = fastest(partial(layer, x.bfloat16()), partial(layer, x))
                print(f"| {name} | {one:.2f} | {other:.2f} | {one / other:.2f} |")


if __name__ == "__main__":
    main()
