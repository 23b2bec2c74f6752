"""What plans say of a job's memory and disk beside what was measured, in fresh processes.

Run `python benchmarks/plan.py [--models FOLDER ...] [--methods nf4 int8 gptq] [--text FILE]`. SmolLM2-135M by default;
`--text` calibrates GPTQ, with 32 samples of 512 tokens. `--mixtures` plans Mixtral-8x7B and Qwen3-30B-A3B instead, by
their configs alone, and prints the time, the memory above that of what was before, and the predicted footprint.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"

JOB = """
import json, sys
import qtoolkit as qt
model, method, options, output = sys.argv[1:]
from qtoolkit.methods import config_class
config = config_class(method).from_dict(json.loads(options))
plan = qt.plan(model, config, device="cpu")
memory = qt.quantize(model, config, output=output, device="cpu").memory
keys = ("footprint_after", "disk_after", "peak_rss")
print("RESULT", json.dumps({
    "peak": [plan.peak_rss, memory.peak_rss], "footprint": [plan.footprint_after, memory.footprint_after],
    "disk": [plan.disk_after, memory.disk_after], "phase": max(plan.phases, key=lambda phase: phase.peak_rss).name,
}))
"""

# The numbers of the published config.json, as far as the class has others.
MIXTURES = {
    "Mixtral-8x7B": ("mixtral", {"vocab_size": 32000}),
    "Qwen3-30B-A3B": (
        "qwen3_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
        },
    ),
}
CONFIGS: tuple[tuple[str, dict[str, object]], ...] = (
    ("NF4", {}),
    ("AbsMax", {"bits": 4, "granularity": "group", "group_size": 128}),
    ("GPTQ", {"bits": 4, "group_size": 128}),
)

MIXTURE = """
import json, resource, sys, time
import qtoolkit as qt
from transformers import LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
kind, values, configs = sys.argv[1], *map(json.loads, sys.argv[2:])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
# What a plan imports.
small = LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=256)
qt.plan(small, qt.NF4(), device="cpu")
config = CONFIG_MAPPING[kind](dtype="bfloat16", tie_word_embeddings=False, **values)
for name, options in configs:
    before, wall, started = peak(), time.monotonic(), time.process_time()
    plan = qt.plan(config, getattr(qt, name)(**options), device="cpu")
    used = time.process_time() - started, time.monotonic() - wall, peak() - before, plan.footprint_after
    print("RESULT", json.dumps(used), flush=True)
"""


def main() -> None:
    """Print one line for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", type=Path, default=[MODEL])
    parser.add_argument("--methods", nargs="+", default=["nf4", "fp4", "int8", "absmax", "zero_point"])
    parser.add_argument("--text", type=Path, help="text that GPTQ calibrates with")
    parser.add_argument("--mixtures", action="store_true", help="plan two mixtures by their configs")
    arguments = parser.parse_args()
    if arguments.mixtures:
        plan_mixtures()
        return
    print(f"{'model':<24} {'method':<11} {'peak memory: predicted, measured':<36} {'footprint':<14} on disk")
    for model in arguments.models:
        for method in arguments.methods:
            options = {}
            if method == "gptq":
                options = {"calibration": str(arguments.text), "num_samples": 32, "seq_len": 512}
            found = run(model, method, options)
            predicted, measured = found["peak"]
            print(
                f"{model.name:<24} {method:<11} {predicted / 1e6:8.0f} MB {measured / 1e6:8.0f} MB "
                f"{100 * (predicted / measured - 1):+6.1f} %  {off(found['footprint']):<14} {off(found['disk'])}",
                flush=True,
            )


def plan_mixtures() -> None:
    """Print one line for each mixture and method, each mixture in a fresh process."""
    for model, (kind, values) in MIXTURES.items():
        arguments = [kind, json.dumps(values), json.dumps(CONFIGS)]
        done = subprocess.run([sys.executable, "-c", MIXTURE, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{model} failed:\n{done.stderr[-3000:]}")
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        for (method, _), line in zip(CONFIGS, lines, strict=True):
            processor, wall, memory, footprint = json.loads(line.removeprefix("RESULT "))
            print(
                f"{model:<14} {method:<7} {processor:5.2f} processor s, {wall:5.2f} s, {memory / 1e6:+4.0f} MB, "
                f"footprint {footprint / 1e9:.2f} GB"
            )


def run(model: Path, method: str, options: dict[str, object]) -> dict[str, list[int]]:
    """Plan and quantize in a fresh process."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [str(model), method, json.dumps(options), f"{scratch}/out"]
        done = subprocess.run([sys.executable, "-c", JOB, *arguments], capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        sys.exit(f"{method} of {model} failed:\n{done.stderr[-3000:]}")
    found: dict[str, list[int]] = json.loads(line.removeprefix("RESULT "))
    return found


def off(pair: list[int]) -> str:
    """How far a prediction is from what was measured."""
    predicted, measured = pair
    return "exact" if predicted == measured else f"{predicted - measured:+} bytes"


if __name__ == "__main__":
    main()
