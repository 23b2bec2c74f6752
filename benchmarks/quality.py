"""Seconds of an evaluation beside those of bare forward passes, and its standard errors beside those of single tokens.

Run `python benchmarks/quality.py --text FILE [--model FOLDER] [--num-tokens 16384]`. The model and its NF4 are run over
the same windows, forward passes and evaluation by turns.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import qtoolkit as qt
from qtoolkit.evaluation.statistics import mean
from qtoolkit.tensor.divergence import compare_predictions

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"
SEQ_LEN, TURNS = 512, 2


def main() -> None:
    """Print seconds of both, and errors of both kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--text", required=True, help="file to measure on")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--num-tokens", type=int, default=16384)
    arguments = parser.parse_args()
    base: Any = qt.load(arguments.model, device="cpu")
    quantized = qt.quantize(arguments.model, "nf4", device="cpu")
    text = Path(arguments.text).read_text(encoding="utf-8")[: 10 * arguments.num_tokens]
    ids = quantized.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: arguments.num_tokens]
    windows = torch.tensor(ids[: len(ids) // SEQ_LEN * SEQ_LEN]).view(-1, SEQ_LEN)  # [windows, seq_len]
    print(f"{len(windows)} windows of {SEQ_LEN} tokens, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for _ in range(TURNS):
        passes = forward(base, windows) + forward(quantized.model, windows)
        report = qt.evaluate(
            quantized, base=arguments.model, text=arguments.text, num_tokens=arguments.num_tokens, speed=False
        )
        print(
            f"forward passes {passes:6.1f} s   evaluation {report.seconds:6.1f} s   {report.seconds / passes:.2f} times"
        )
    errors(base, quantized.model, windows)


def forward(model: torch.nn.Module, windows: torch.Tensor) -> float:
    """Seconds of a model's bare forward passes."""
    started = time.perf_counter()
    with torch.no_grad():
        for window in windows:
            model(input_ids=window[None], use_cache=False)
    return time.perf_counter() - started


def errors(base: torch.nn.Module, model: torch.nn.Module, windows: torch.Tensor) -> None:
    """Print each figure's standard error, over windows and as if each token stood alone, as llama.cpp counts them."""
    found = []
    with torch.no_grad():
        for one in windows:
            expected, logits = (part(input_ids=one[None], use_cache=False).logits[0, :-1] for part in (base, model))
            found.append(compare_predictions(expected, logits, one[1:]))
    place = torch.arange(len(windows)).repeat_interleave(SEQ_LEN - 1)
    for name in ("nll", "kl_divergence", "same_top", "delta_p"):
        values = torch.cat([getattr(prediction, name) for prediction in found]).double()
        alone = float(values.std()) / len(values) ** 0.5
        over_windows = mean(values, place).error or 0.0
        print(f"{name:<14} {values.mean():9.5f}   error over windows {over_windows:.5f}, of tokens alone {alone:.5f}")


if __name__ == "__main__":
    main()
