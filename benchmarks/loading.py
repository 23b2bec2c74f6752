"""Peak memory and time of quantizing to NF4: `qt.quantize` beside transformers' `from_pretrained(load_in_4bit)`.

Run `python benchmarks/loading.py [--billions 0.7] [--repeats 3]`. A random Llama is made once under `build/`; each run
is a fresh process that first imports everything and warms the libraries up, so that "above imports" is the job's own
need.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parent.parent / "build" / "models"

WARM_UP = """
import gc, json, sys, time
import bitsandbytes, torch, transformers
import transformers.models.llama.modeling_llama, transformers.integrations.bitsandbytes
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
import qtoolkit as qt
qt.quantize(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=64, hidden_size=64,
    intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)), qt.NF4(), device="cpu")
gc.collect()
settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)
def high_water_mark():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before, start = high_water_mark(), time.monotonic()
"""
JOBS = {
    "transformers": "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=settings, "
    'device_map={"": "cpu"}, dtype=torch.bfloat16)',
    "qtoolkit": 'model = qt.quantize(sys.argv[1], qt.NF4(), device="cpu").model',
}
REPORT = """
seconds, peak = time.monotonic() - start, high_water_mark() - before
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


def random_llama(billions: float) -> Path:
    """A random Llama of about this many billion parameters in bfloat16, in shards of 500 MB."""
    folder = BUILD / f"random-llama-{billions}b"
    if not folder.exists():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        layer = 4 * 2048 * 2048 + 3 * 2048 * 5632
        layers = max(1, round((billions * 1e9 - 2 * 32000 * 2048) / layer))
        config = AutoConfig.for_model(
            "llama",
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=layers,
            num_attention_heads=32,
            dtype="bfloat16",
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder.with_suffix(".partial"), max_shard_size="500MB")
        folder.with_suffix(".partial").rename(folder)
    return folder


def run(job: str, folder: Path) -> dict[str, float]:
    """One measurement in a fresh process."""
    code = WARM_UP + JOBS[job] + REPORT
    output = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    folder = random_llama(options.billions)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(
        f"NF4 with double quantization of {folder.name}, {size / 1e9:.2f} GB, on the CPU; median of {options.repeats}"
    )
    medians = {}
    for job in JOBS:
        runs = [run(job, folder) for _ in range(options.repeats)]
        medians[job] = {key: statistics.median(each[key] for each in runs) for key in ("peak", "seconds")}
        print(f"{job:<14} peak above imports {medians[job]['peak'] / 1e6:8.1f} MB   {medians[job]['seconds']:6.1f} s")
    ours, theirs = medians["qtoolkit"], medians["transformers"]
    print(f"{'ratio':<14} {ours['peak'] / theirs['peak']:27.2f}   {ours['seconds'] / theirs['seconds']:10.2f}")


if __name__ == "__main__":
    main()
