"""GPTQ of SmolLM2-135M on a CPU: qtoolkit beside optimum + gptqmodel, same samples, same ruler, one run.

Run `python benchmarks/gptq.py --text wikitext.txt [--bits 4] [--peer .venv-gptqmodel/bin/python]`. The first half of
the text calibrates, the second is held out. Each quantizes in a fresh process; both checkpoints are then read by
`qt.load` and measured the same way. `--peer ""` leaves the peer out, `--set order=natural` changes a field.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"
WINDOWS, WINDOW = 16, 1024

OURS = """
import json, sys, time
start = time.monotonic()
import torch
from transformers import AutoModelForCausalLM
import qtoolkit as qt
import qtoolkit.api
imports = time.monotonic() - start
options = json.loads(sys.argv[3])
quantized = qt.quantize(sys.argv[1], qt.GPTQ(**options), output=sys.argv[2], overwrite=True, device="cpu")
"""
PEER = """
import json, sys, time
start = time.monotonic()
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from optimum.gptq import GPTQQuantizer
imports = time.monotonic() - start
options = json.loads(sys.argv[3])
rows = json.loads(open(sys.argv[4]).read())
data = [{"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)} for row in rows]
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
quantizer = GPTQQuantizer(dataset=data, **options)
model = quantizer.quantize_model(model, tokenizer)
quantizer.dataset = model.config.quantization_config["dataset"] = None
quantizer.save(model, sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""
REPORT = """
lines = open("/proc/self/status").read().splitlines()
peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print("RESULT", json.dumps({"seconds": time.monotonic() - start - imports, "imports": imports, "peak": peak}))
"""


def run(python: str, code: str, *arguments: str) -> dict[str, float]:
    """Run a job in a fresh process; its seconds without imports, and its peak with them."""
    done = subprocess.run([python, "-c", code + REPORT, *arguments], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        sys.exit(f"{python} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return result


def perplexity(model: Any, windows: Any) -> float:
    """exp of the mean negative log-likelihood of all tokens but the first of each window."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for row in windows:
            logits = model(row[None], use_cache=False).logits[0, :-1].float()
            total += torch.nn.functional.cross_entropy(logits, row[1:]).item()
    return math.exp(total / len(windows))


def split(text: Path, folder: Path) -> tuple[Path, str]:
    """The first half of a text as a file to calibrate on, and the second."""
    whole = text.read_text(encoding="utf-8")
    middle = whole.find("\n", len(whole) // 2)
    half = folder / "calibration.txt"
    half.write_text(whole[:middle], encoding="utf-8")
    return half, whole[middle:]


def print_ratios(found: dict[str, dict[str, float]]) -> None:
    """Ours beside theirs, for each of our two runs."""
    theirs = found["optimum+gptqmodel"]
    for name in ("qtoolkit", "qtoolkit again"):
        times, share = theirs["seconds"] / found[name]["seconds"], found[name]["peak"] / theirs["peak"]
        print(f"{name} / theirs: time 1/{times:.1f}, peak {share:.2f}")


def ideal_seconds(tokens: int, seq_len: int) -> float:
    """The floor for this model and this processor: its products at the speed that it multiplies at, nothing else.

    One forward of each block, and half of each Hessian, at the rate of bfloat16; Cholesky factors and the solver's
    products at that of float32: [2 T P + 2 T S d + T sum K^2] / F16 + [sum K^3 / 3 + sum N K^2] / F32 for each block.
    """
    rate16, rate32 = _rate("bfloat16"), _rate("float32")
    hidden, inner, attention, blocks = 576, 1536, 576, 30
    inputs = [(hidden, 960), (hidden, 576), (hidden, 2 * inner), (inner, hidden)]
    weights = sum(count * outputs for count, outputs in inputs)
    products = 2 * tokens * weights + 2 * tokens * seq_len * attention
    hessians = tokens * sum(count**2 for count, _ in inputs)
    solves = sum(count**3 / 3 + outputs * count**2 for count, outputs in inputs)
    return blocks * ((products + hessians) / rate16 + solves / rate32)


def _rate(dtype: str) -> float:
    """Operations a second of a product of 2,048 x 2,048 matrices."""
    import torch

    a = torch.randn(2048, 2048).to(getattr(torch, dtype))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--peer", default=str(ROOT / ".venv-gptqmodel" / "bin" / "python"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of qt.GPTQ")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import qtoolkit as qt
    from qtoolkit.texts.calibration_text import load_calibration

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    shape = {"num_samples": arguments.num_samples, "seq_len": arguments.seq_len}
    common = {"bits": arguments.bits, "group_size": arguments.group_size}
    changes = {key: _value(text) for key, _, text in (item.partition("=") for item in arguments.set)}
    common |= {key: changes[key] for key in ("sym",) if key in changes}
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        half, held_out = split(arguments.text, folder)
        tokens = load_calibration(
            half, tokenizer, **shape, max_seq_len=None, vocab_size=len(tokenizer), on_progress=lambda event: None
        ).tokens
        (folder / "tokens.json").write_text(json.dumps(tokens.tolist()))
        ids = tokenizer(held_out, return_tensors="pt").input_ids[0][: WINDOWS * WINDOW]
        windows = ids.view(WINDOWS, WINDOW)  # [16 * 1024] -> [16, 1024]
        base = perplexity(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16), windows)
        print(f"bf16                perplexity {base:.2f} on {WINDOWS} windows of {WINDOW} tokens held out")
        ours = json.dumps(common | {"calibration": str(half)} | shape | changes)
        jobs = {"qtoolkit": (sys.executable, OURS, ours)}
        if arguments.peer:
            jobs["optimum+gptqmodel"] = (arguments.peer, PEER, json.dumps(common))
            # Shared machines change their speed within minutes: once before the peer, once after.
            jobs["qtoolkit again"] = (sys.executable, OURS, ours)
        found = {}
        for name, (python, code, options) in jobs.items():
            result = folder / name
            found[name] = run(python, code, str(MODEL), str(result), options, str(folder / "tokens.json"))
            start = time.monotonic()
            model: Any = qt.load(result, device="cpu")
            loading = time.monotonic() - start
            value = perplexity(model.model, windows)
            found[name]["perplexity"] = value
            print(
                f"{name:<19} perplexity {value:.2f} ({value / base:.4f} of bf16)   "
                f"{found[name]['seconds']:.1f} s + {found[name]['imports']:.1f} s imports   "
                f"peak {found[name]['peak'] / 1e6:.0f} MB   load {loading:.1f} s"
            )
        floor = ideal_seconds(tokens.numel(), arguments.seq_len)
        print(f"floor of the products {floor:.1f} s: ours takes {found['qtoolkit']['seconds'] / floor:.2f} times that")
        if arguments.peer:
            print_ratios(found)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
