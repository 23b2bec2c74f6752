"""Tokens a second on this processor, and on it taken for an older one: models of each method beside float32.

Run `python benchmarks/processor.py MODEL` with a folder in bfloat16. Each kind of processor is a process of its own, of
one thread; each model takes turns with float32, and ratios are medians over these turns. Seconds are processor seconds,
so that a busy machine changes them least. `--llama-cpp PYTHON` adds llama.cpp's Q4_0 of a Python that has
llama-cpp-python, `--older-llama-cpp FOLDER` what is read in its place on the older processor: libraries compiled with
`-DGGML_NATIVE=OFF -DGGML_AVX512=OFF`.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve()
# As in the Makefile's `test-older`.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "PYTHONPATH": os.pathsep.join((str(HERE.parents[1] / "scripts" / "older_processor"), str(HERE.parents[1]))),
}
PROMPT, NEW, TURNS = 128, 16, 7
# Reads a prompt or writes tokens for each line of its input, and prints processor seconds.
LLAMA = """
import sys, time
from llama_cpp import Llama
path, prompt, new = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Llama(path, n_ctx=256, n_threads=1, n_threads_batch=1, n_batch=prompt, verbose=False)
for line in sys.stdin:
    model.reset()
    if line.strip() == "write":
        model.eval([100])
    start = time.process_time()
    for tokens in [list(range(100, 100 + prompt))] if line.strip() == "read" else [[200]] * new:
        model.eval(tokens)
    print(time.process_time() - start, flush=True)
"""
Work = Callable[[], float]


def seconds(run: Callable[[], object]) -> float:
    """Processor seconds of one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def works(model: Any) -> tuple[Work, Work]:
    """Read a prompt, and write a text: each returns its seconds."""
    prompt = torch.arange(PROMPT)[None] + 100
    begin = prompt[:, :1]
    options = {"do_sample": False, "pad_token_id": 0, "min_new_tokens": NEW, "max_new_tokens": NEW}
    return (
        lambda: seconds(lambda: model(input_ids=prompt, use_cache=False)),
        lambda: seconds(lambda: model.generate(begin, attention_mask=torch.ones_like(begin), **options)),
    )


def llama_works(python: str, file: Path) -> tuple[Work, Work]:
    """The same by llama.cpp, in a process that ends with this one."""
    process = subprocess.Popen(
        [python, "-c", LLAMA, str(file), str(PROMPT), str(NEW)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(what: str) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(what + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    return lambda: ask("read"), lambda: ask("write")


def side_by_side(mine: Work, base: Work) -> tuple[float, float]:
    """The seconds of one, and how many times as fast as float32 it is: medians of turns but the first."""
    turns = [(mine(), base()) for _ in range(TURNS + 1)][1:]
    return statistics.median(one for one, _ in turns), statistics.median(other / one for one, other in turns)


def figures(folder: str, llama: str | None, only: str) -> dict[str, list[float]]:
    """Tokens a second and ratio of reading, then of writing, on this process's processor."""
    from transformers import AutoModelForCausalLM

    import qtoolkit as qt

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)

    def codes(config: Any) -> Callable[[], Any]:
        return lambda: qt.quantize(folder, config, device="cpu").model

    def plain(dtype: torch.dtype) -> Callable[[], Any]:
        return lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    # Codes in the format of GPTQ are multiplied alike, whoever chose them.
    group: dict[str, Any] = {"granularity": "group", "format": "gptq"}
    channel: dict[str, Any] = {"granularity": "channel"}
    models: dict[str, Callable[[], Any]] = {
        "transformers, bfloat16": plain(torch.bfloat16),
        "`qt.load`, bfloat16": lambda: qt.load(folder, device="cpu"),
        "GPTQ, 4 bits, groups of 64": codes(qt.AbsMax(bits=4, group_size=64, **group)),
        "GPTQ, 4 bits, groups of 128": codes(qt.AbsMax(bits=4, group_size=128, **group)),
        "GPTQ, 8 bits": codes(qt.AbsMax(bits=8, granularity="channel", format="gptq")),
        "GPTQ, 8 bits, groups of 64": codes(qt.AbsMax(bits=8, group_size=64, **group)),
        "absmax, 4 bits, groups of 64": codes(qt.AbsMax(bits=4, granularity="group")),
        "absmax, 4 bits": codes(qt.AbsMax(bits=4, **channel)),
        "absmax, 8 bits": codes(qt.AbsMax(bits=8, **channel)),
        "absmax, 8 bits, groups of 64": codes(qt.AbsMax(bits=8, granularity="group")),
        "zero-point, 4 bits, groups of 64": codes(qt.ZeroPoint(bits=4, granularity="group")),
        "zero-point, 4 bits": codes(qt.ZeroPoint(bits=4, **channel)),
        "zero-point, 8 bits": codes(qt.ZeroPoint(bits=8, **channel)),
        "zero-point, 8 bits, groups of 64": codes(qt.ZeroPoint(bits=8, granularity="group")),
        "NF4": codes(qt.NF4()),
        "int8": codes(qt.Int8()),
    }
    names = [name for name in models if only in name]
    found = {}
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        base = works(plain(torch.float32)())
        ways: dict[str, Callable[[], tuple[Work, Work]]] = {
            name: partial(lambda make: works(make()), models[name]) for name in names
        }
        if llama:
            file = Path(scratch) / "q4_0"
            qt.quantize(folder, qt.GGUF(quant_type="Q4_0"), output=file)
            ways["llama.cpp, Q4_0"] = lambda: llama_works(llama, next(file.glob("*.gguf")))
        for name, make in ways.items():
            pairs = zip(make(), base, (PROMPT, NEW), strict=True)
            sides = [(side_by_side(mine, float32), tokens) for mine, float32, tokens in pairs]
            found[name] = [number for (own, ratio), tokens in sides for number in (tokens / own, ratio)]
            print(name, found[name], file=sys.stderr)
    return found


def main() -> None:
    """Print one table with both kinds of processor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="folder of a model in bfloat16")
    parser.add_argument("--only", default="", metavar="PART", help="models whose names have this part")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="a Python that has llama-cpp-python")
    parser.add_argument("--older-llama-cpp", metavar="FOLDER", help="its libraries for an older processor")
    parser.add_argument("--here", action="store_true", help="measure on this processor as it is, and print JSON")
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(1)
        print(json.dumps(figures(options.model, options.llama_cpp, options.only)))
        return
    command = [sys.executable, str(HERE), options.model, "--here", "--only", options.only]
    older = {**OLDER, **({"LLAMA_CPP_LIB_PATH": options.older_llama_cpp} if options.older_llama_cpp else {})}
    print(f"torch {torch.__version__}, one thread; tokens/s of a prompt of {PROMPT}, and of {NEW} new ones\n")
    for kind, environment in {"this processor": {}, "with AVX2 alone": older}.items():
        # llama.cpp compiled for newer instructions would be no older processor's.
        asks = options.llama_cpp and (not environment or options.older_llama_cpp)
        answer = subprocess.run(
            [*command, *(("--llama-cpp", options.llama_cpp) if asks else ())],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            check=True,
            stdout=subprocess.PIPE,
        )
        print(f"| {kind} | prompt | of float32's | new | of float32's |\n|---|---|---|---|---|")
        for name, (read, read_ratio, write, write_ratio) in json.loads(answer.stdout.splitlines()[-1]).items():
            print(f"| {name} | {read:.0f} | {read_ratio:.2f} | {write:.0f} | {write_ratio:.2f} |")


if __name__ == "__main__":
    main()
