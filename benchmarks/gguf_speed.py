"""Time qt.GGUF beside llama.cpp's own quantizer: a random model of 1.5 billion weights, the same cores, one run each.

    python benchmarks/gguf_speed.py --llama-cpp FOLDER [--quant-type Q4_K_M] [--layers 32] [--threads 2] [--work FOLDER]

FOLDER has libllama.*.so and what it needs, as `quality_peers.py` says. llama.cpp quantizes the `.gguf` file in F16 that
qtoolkit writes of the same folder; both have as many threads, and neither has importance weights. 9 GB of disk are
needed. Fewer layers, each of 46 million weights, are done sooner, and the embedding, whose type takes qtoolkit longest,
is a larger share of them; 4 have the types of 32 in equal shares. Beside other work compare processor seconds of one
thread: several wait for one another, and count that as work.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

ROOT = Path(__file__).parent.parent
SMOLLM2 = ROOT / "build" / "models" / "SmolLM2-135M-Instruct"


def make_model(folder: Path, layers: int) -> None:
    """Write a model of the sizes of Qwen2.5-1.5B with random weights, in bfloat16 and shards of 500 MB."""
    config = Qwen2Config(
        vocab_size=len(AutoTokenizer.from_pretrained(SMOLLM2)),
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="500MB")
    AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(folder)


def took(script: str, *arguments: str, threads: int) -> dict[str, float]:
    """Run a script of `peers` in a process of its own, and return its seconds without imports, and its whole peak."""
    command = [sys.executable, str(ROOT / "benchmarks" / "peers" / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or line is None:
        sys.exit(f"{script} failed:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(line.removeprefix("RESULT "))
    return found


def main() -> None:
    """Quantize with both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--quant-type", default="Q4_K_M")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gguf-speed")
    arguments = parser.parse_args()
    work, threads = arguments.work, arguments.threads
    work.mkdir(parents=True, exist_ok=True)
    model, plain, ours = work / "model", work / "f16", work / "ours"
    if not model.exists():
        make_model(model, arguments.layers)
    if not plain.exists():
        took("write_gguf.py", str(model), str(plain), json.dumps({"quant_type": "F16"}), threads=threads)
    options = json.dumps({"quant_type": arguments.quant_type})
    rows = {"qtoolkit": took("write_gguf.py", str(model), str(ours), options, threads=threads)}
    nothing = work / "nothing.npz"
    np.savez(nothing)
    theirs = work / "theirs.gguf"
    fields = json.dumps({"ftype": arguments.quant_type, "threads": threads})
    libraries, (source,) = str(arguments.llama_cpp.absolute()), plain.glob("*.gguf")
    rows["llama.cpp"] = took(
        "write_llama_cpp.py", libraries, str(source), str(theirs), str(nothing), fields, threads=threads
    )
    sizes = {"qtoolkit": next(ours.glob("*.gguf")).stat().st_size, "llama.cpp": theirs.stat().st_size}
    print("| program | seconds | processor seconds | peak | file |\n|---|---|---|---|---|")
    for program, row in rows.items():
        took_seconds = f"{row['seconds']:.1f} | {row['processor_seconds']:.1f}"
        print(f"| {program} | {took_seconds} | {row['peak'] / 1e6:,.0f} MB | {sizes[program]:,} bytes |")
    ratio = rows["qtoolkit"]["processor_seconds"] / rows["llama.cpp"]["processor_seconds"]
    print(f"\n{ratio:.2f} times llama.cpp's processor time")


if __name__ == "__main__":
    main()
