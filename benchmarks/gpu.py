"""What a GPU is asked for, in one call: products of GPTQ layers, one solve, and a whole job, beside plain bfloat16.

Run `python benchmarks/gpu.py [--model build/models/SmolLM2-135M-Instruct]` on a machine with a CUDA device. Prints the
card's name, microseconds of each product (median; the cache is flushed between two), seconds of GPTQ's solver with
Triton's kernels and without, and seconds and peak memory of GPTQ of the model with 32 x 512 tokens. On a T4, which has
no bfloat16, products are in float16.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest.mock import patch

import torch
from products import gptq

import qtoolkit as qt
from qtoolkit.methods.gptq import refining, solver
from qtoolkit.methods.gptq.refining import refine
from qtoolkit.methods.gptq.solver import column_order, factor, solve
from qtoolkit.tensor.qparams import search_qparams

SHAPES = ((4096, 4096), (14336, 4096))
TOKENS = (1, 16, 64, 128, 512, 2048)
REPEATS = 20
FLUSHED = 256 * 1024 * 1024


def microseconds(run: Callable[[], torch.Tensor]) -> float:
    """Return the median time of a call on the GPU, each after the cache was flushed."""
    flush = torch.empty(FLUSHED, dtype=torch.uint8, device="cuda")
    times = []
    for index in range(REPEATS + 3):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        if index >= 3:
            times.append(1000 * start.elapsed_time(end))
    return float(statistics.median(times))


def print_products(dtype: torch.dtype) -> None:
    """Print the table of products."""
    print(f"| layer [out, in] | tokens | {str(dtype).removeprefix('torch.')} | GPTQ, 4 bits | GPTQ, 8 bits |")
    print("|---|---|---|---|---|")
    for shape in SHAPES:
        weight = torch.randn(shape).to("cuda", dtype)
        # `.to` packs the codes for the card's kernels.
        layers = [gptq(torch.empty(shape, device="meta"), bits=bits, group_size=128).to("cuda") for bits in (4, 8)]
        for tokens in TOKENS:
            x = torch.randn(tokens, shape[1]).to("cuda", dtype)
            runs = (partial(torch.matmul, x, weight.T), *(partial(layer, x) for layer in layers))
            found = [microseconds(run) for run in runs]
            print(f"| {list(shape)} | {tokens} | " + " | ".join(f"{time:.0f}" for time in found) + " |")


def print_solve() -> None:
    """Print seconds of one layer's search, solve and refinement, with Triton's kernels and with torch's operations."""
    out_features, in_features = 4096, 4096
    weight = torch.randn(in_features, out_features, device="cuda")
    inputs = torch.randn(2 * in_features, in_features, device="cuda")
    hessian = inputs.T @ inputs / len(inputs)
    order = column_order(hessian.diagonal(), "activation")
    groups = torch.arange(in_features, device="cuda") // 128
    options: dict[str, Any] = {
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "full_range": True,
        "steps": 20,
        "smallest": 0.4,
    }

    def job() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        qparams = search_qparams(weight, hessian.diagonal(), **options)
        lower, diagonal, damp = factor(hessian, order, 0.01)
        codes, loss = solve(weight, lower, diagonal, order, qparams, groups)
        refine(weight, hessian, damp, order, qparams, groups, codes, loss, rounds=1)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    def without(device: torch.device, check: object) -> bool:
        return False

    job()
    ours = job()
    with patch.object(solver, "runs_triton", without), patch.object(refining, "runs_triton", without):
        job()
        theirs = job()
    print(f"\nGPTQ of one layer [{out_features}, {in_features}]: {ours:.2f} s, without Triton's kernels {theirs:.2f} s")


def print_job(model: Path) -> None:
    """Print seconds and peaks of a whole job."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    file = Path("build/gpu-benchmark.txt")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    config = qt.GPTQ(bits=4, group_size=64, calibration=str(file), num_samples=32, seq_len=512)
    result = qt.quantize(model, config, output="build/gpu-benchmark", overwrite=True, device="cuda")
    peak = result.memory.peak
    print(f"\nGPTQ of {model.name}, 32 x 512 tokens: {result.report.seconds:.1f} s")
    assert peak is not None
    print(f"peak: {peak.peak_vram or 0:,} bytes of GPU memory, {peak.peak_rss:,} resident")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("build/models/SmolLM2-135M-Instruct"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device on this machine")
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    torch.manual_seed(0)
    with torch.no_grad():
        print_products(dtype)
        print_solve()
    print_job(options.model)


if __name__ == "__main__":
    main()
