"""What plans say of a job's memory and disk beside what was measured, in fresh processes.

Run `python benchmarks/plan.py [--models FOLDER ...] [--methods nf4 int8 gptq] [--text FILE]`. SmolLM2-135M by default;
`--text` calibrates GPTQ, with 32 samples of 512 tokens.
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


def main() -> None:
    """Print one line for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", type=Path, default=[MODEL])
    parser.add_argument("--methods", nargs="+", default=["nf4", "fp4", "int8", "absmax", "zero_point"])
    parser.add_argument("--text", type=Path, help="text that GPTQ calibrates with")
    arguments = parser.parse_args()
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
