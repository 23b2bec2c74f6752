"""Print the error and the time of the searches of block types beside those of llama.cpp's own quantizer, on one core.

Rows that are normal, rows with heavy tails, and those of layers of a checkpoint; with and without importance of inputs.
`ggml_quantize_chunk` is called in `libggml-base.so`, which pip compiles for llama-cpp-python:

    python benchmarks/block_types.py --ggml .venv-llama-cpp/lib/python3.11/site-packages/llama_cpp/lib/libggml-base.so \
        --model build/models/SmolLM2-135M-Instruct/model.safetensors --layer model.layers.3.mlp.down_proj.weight
"""

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open

from qtoolkit.tensor.block_types import BLOCK_TYPES, BlockType, quantize_rows

_ROWS, _COLUMNS = 1024, 2048
# Of these times, the least is told: others use the machine too.
_RUNS = 3


def main() -> None:
    """Print a row for each kind of weights and each type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ggml", type=Path, required=True, help="llama.cpp's libggml-base.so")
    parser.add_argument("--model", type=Path, help="a safetensors file")
    parser.add_argument("--layer", action="append", default=[], help="name of a weight in it; may be repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    library = ctypes.CDLL(str(arguments.ggml))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p,
    ]  # fmt: skip
    print("| weights | type | importance | error, llama.cpp's = 1 | same bytes | seconds for 8 M | llama.cpp |")
    print("|---|---|---|---|---|---|---|")
    for title, weight, importance in weights(arguments.model, arguments.layer):
        for type_ in BLOCK_TYPES.values():
            if type_.block_size == 1:
                continue
            for given in (None, importance):
                print(f"| {title} | {type_.name} | {compared(library, type_, weight, given)} |", flush=True)


def weights(model: Path | None, layers: list[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield kinds of weights, W[out, in] float32, with some importance of their inputs, [in]."""
    torch.manual_seed(0)
    yield "normal", torch.randn(_ROWS, _COLUMNS) * 0.02, torch.rand(_COLUMNS) + 0.1
    heavy = torch.distributions.StudentT(3.0).sample((_ROWS, _COLUMNS))
    yield "Student's t of 3", heavy * 0.02, torch.distributions.LogNormal(0.0, 2.0).sample((_COLUMNS,))
    for name in layers:
        with safe_open(str(model), "pt") as file:
            weight = file.get_tensor(name).float()
        yield name, weight, torch.distributions.LogNormal(0.0, 2.0).sample((weight.shape[1],))


def compared(library: ctypes.CDLL, type_: BlockType, weight: torch.Tensor, importance: torch.Tensor | None) -> str:
    """Return the cells of a row."""
    stored = np.zeros(type_.nbytes(tuple(weight.shape)), np.uint8)
    array = None if importance is None else importance.numpy()
    rows, columns = weight.shape

    def by_llama_cpp() -> None:
        address = None if array is None else array.ctypes.data
        values = weight.numpy().ctypes.data
        library.ggml_quantize_chunk(type_.number, values, stored.ctypes.data, 0, rows, columns, address)

    ours = quantize_rows(weight, type_, importance).numpy()
    by_llama_cpp()
    theirs = stored.reshape(ours.shape)
    by_importance = 1 if array is None else array
    errors = [
        ((gguf.dequantize(blocks, gguf.GGMLQuantizationType[type_.name]) - weight.numpy()) ** 2 * by_importance).sum()
        for blocks in (ours, theirs)
    ]
    share = 2**23 / weight.numel()
    own = share * least(lambda: quantize_rows(weight, type_, importance))
    other = share * least(by_llama_cpp)
    same = 100 * (ours == theirs).mean()
    kind = "no" if importance is None else "yes"
    return f"{kind} | {errors[0] / errors[1]:.4f} | {same:.1f} % | {own:.2f} | {other:.2f}"


def least(call: Callable[[], object]) -> float:
    """Return the least processor time of some calls, in seconds."""
    times = []
    for _ in range(_RUNS):
        before = time.process_time()
        call()
        times.append(time.process_time() - before)
    return min(times)


if __name__ == "__main__":
    main()
