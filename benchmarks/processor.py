"""Tokens a second on this processor, and on it taken for an older one: transformers and `qt.load` side by side.

Run `python benchmarks/processor.py MODEL` with a folder in bfloat16. Each kind of processor is a process of its own.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve()
# As in the Makefile's `test-older`.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "PYTHONPATH": str(HERE.parents[1] / "scripts" / "older_processor"),
}
PROMPT, NEW = 128, 16


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of three runs, after one that does not count."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def measure(model: torch.nn.Module) -> tuple[float, float]:
    """Tokens a second of a prompt that is read, and of a text that is written."""
    prompt = torch.arange(PROMPT)[None] + 100
    begin = prompt[:, :1]
    options = {"do_sample": False, "pad_token_id": 0, "min_new_tokens": NEW, "max_new_tokens": NEW}
    with torch.no_grad():
        read = best(lambda: model(input_ids=prompt, use_cache=False))
        write = best(lambda: model.generate(begin, attention_mask=torch.ones_like(begin), **options))  # type: ignore[operator]
    return PROMPT / read, NEW / write


def figures(folder: str) -> dict[str, tuple[float, float]]:
    """What is measured on this process's processor."""
    from transformers import AutoModelForCausalLM

    import qtoolkit as qt

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

    def plain(model: object) -> torch.nn.Module:
        assert isinstance(model, torch.nn.Module)
        return model

    models: dict[str, Callable[[], torch.nn.Module]] = {
        "transformers, float32": lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        "transformers, bfloat16": lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),
        "qt.load": lambda: plain(qt.load(folder, device="cpu")),
        "nf4": lambda: qt.quantize(folder, qt.NF4(), device="cpu").model,
        "int8": lambda: qt.quantize(folder, qt.Int8(), device="cpu").model,
        "absmax, 8 bits": lambda: qt.quantize(folder, qt.AbsMax(bits=8), device="cpu").model,
    }
    return {name: measure(load()) for name, load in models.items()}


def main() -> None:
    """Print one table with both kinds of processor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="folder of a model in bfloat16")
    parser.add_argument("--here", action="store_true", help="measure on this processor as it is, and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(figures(options.model)))
        return
    command = [sys.executable, str(HERE), options.model, "--here"]
    kinds = {"this processor": {}, "with AVX2 alone": OLDER}
    found = {}
    for kind, environment in kinds.items():
        answer = subprocess.run(
            command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        found[kind] = json.loads(answer.stdout.splitlines()[-1])
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(f"tokens/s, prompt of {PROMPT} and {NEW} new ones\n\n| | " + " | | ".join(kinds) + " | |")
    for name in found["this processor"]:
        print(f"| {name} | " + " | ".join(f"{number:.0f}" for kind in kinds for number in found[kind][name]) + " |")


if __name__ == "__main__":
    main()
