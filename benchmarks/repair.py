"""What an adapter gives back to SmolLM2-135M in GPTQ of 3 and 4 bits, beside its bytes.

`python benchmarks/repair.py --text valid.txt` quantizes with groups of 64 and repairs on the first half of the text and
measures on the second: rank 32 for all layers, ranks by layer for the same bytes, and 8 bits with twice the ranks.
"""

import argparse
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import qtoolkit as qt
from qtoolkit.records import Repair
from qtoolkit.units import format_bytes
from tests.sample_models import smollm2_folder


def shown(name: str, result: Repair) -> None:
    """One line: the share that is gone, with the standard error of both divergences, and what it takes."""
    before, after = result.before, result.after
    print(
        f"{name:<34} {100 * result.regained:5.1f} % of the KL divergence gone: {before.kl_divergence:.4f} ± "
        f"{before.kl_divergence_se:.4f} to {after.kl_divergence:.4f} ± {after.kl_divergence_se:.4f}; perplexity "
        f"{before.perplexity:.2f} to {after.perplexity:.2f} (base {before.base_perplexity:.2f}); "
        f"{format_bytes(result.adapter_bytes)}, {result.weight_bits:.2f} + {result.adapter_bits:.2f} bits per weight; "
        f"{result.seconds:.0f} s",
        flush=True,
    )


def main(args: argparse.Namespace, folder: Path) -> None:
    """Print the figures of each number of bits."""
    text = args.text.read_text(encoding="utf-8")
    first, second = folder / "first.txt", folder / "second.txt"
    first.write_text(text[: len(text) // 2], encoding="utf-8")
    second.write_text(text[len(text) // 2 :], encoding="utf-8")
    base = smollm2_folder()
    asked = {
        "calibration": str(first),
        "num_samples": args.samples,
        "seq_len": 512,
        "text": str(second),
        "num_tokens": args.tokens,
        "device": "cpu",
    }
    for bits in args.bits:
        model = folder / f"gptq-{bits}"
        config = qt.GPTQ(bits=bits, group_size=64, calibration=str(first), num_samples=32, seq_len=512)
        qt.quantize(base, config, output=model, device="cpu")
        same = qt.repair(model, base, folder / f"same-{bits}", rank=32, **asked)
        shown(f"{bits} bits, rank 32", same)
        size = same.adapter_bytes
        shown(f"{bits} bits, ranks by layer", qt.repair(model, base, folder / f"by-{bits}", target_size=size, **asked))
        eight = qt.repair(model, base, folder / f"eight-{bits}", target_size=size, in_8_bits=True, **asked)
        shown(f"{bits} bits, ranks by layer in 8 bits", eight)
    print(f"peak {format_bytes(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)}, torch {torch.__version__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, required=True, help="WikiText-2's validation text, or another")
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--samples", type=int, default=128, help="of 512 tokens, to repair on")
    parser.add_argument("--tokens", type=int, default=16384, help="to measure on")
    with TemporaryDirectory() as made:
        main(parser.parse_args(), Path(made))
