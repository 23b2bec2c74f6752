"""All that a GPU shall hold, in one call: products, whole jobs and decoding of a model of Llama 3 8B's shapes.

Run `python benchmarks/gpu_table.py [--layers 32]` on a machine with a CUDA device; fewer layers where 16 GB do not fit,
with a bound for as many. A random model is made once under `build/models/`, with the tokenizer of SmolLM2. Bounds are
those of an H200. On another card each is multiplied by bfloat16's time here / bfloat16's time there, for one token by
the ratio of the memories' rates, both measured in this call; float16 where a card has no bfloat16. Each job is a
process of its own. GPTQModel is run beside where it is installed, transformers' `load_in_4bit` always. `gpu.py` prints
the products that set the crossovers of `qtoolkit/kernels/gpu_products.py`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu import FLUSHED, microseconds
from products import gptq

import qtoolkit as qt

BUILD = Path(__file__).parent.parent / "build"
OUTPUT = BUILD / "gpu-table"
SMOLLM2 = BUILD / "models" / "SmolLM2-135M-Instruct"
SHAPE = (14336, 4096)
# By tokens: microseconds of bfloat16 on an H200 (../shared/research/gpu.md), and the bound of 4 bits there.
PRODUCTS = {1: (41, 16), 16: (41, 45), 64: (42, 60), 128: (43, 90), 512: (92, 150), 2048: (323, 370)}
EIGHT_BITS = 30
# Bytes that an H200 reads and writes in a second.
RATE = 4.3e12
PROMPT, NEW_TOKENS = 2048, 128
LAYERS = 32


def random_llama(layers: int) -> Path:
    """Return the folder of a random model of Llama 3 8B's shapes, made once, in shards of 2 GB."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = BUILD / "models" / f"random-llama-3-8b-{layers}"
    if folder.exists():
        return folder
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        tie_word_embeddings=False,
    )
    partial_folder = folder.with_name(f"{folder.name}.partial")
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(partial_folder, max_shard_size="2GB")
    AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(partial_folder)
    partial_folder.rename(folder)
    return folder


def text_file() -> Path:
    """Return a file with enough text for 128 samples of 2,048 tokens."""
    from pydoc_data.topics import topics

    file = BUILD / "gpu-table.txt"
    text = "\n\n".join(f"Edition {number}. {topics[name]}" for number in range(4) for name in sorted(topics))
    file.write_text(text, encoding="utf-8")
    return file


def peaks() -> dict[str, float]:
    """Return the peaks of this process so far: resident bytes, and bytes of the GPU."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    resident = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return {"resident": resident, "gpu": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0}


def solve(folder: Path, *, samples: int, length: int, group_size: int, device: str) -> None:
    """Quantize with GPTQ, and save."""
    config = qt.GPTQ(bits=4, group_size=group_size, calibration=str(text_file()), num_samples=samples, seq_len=length)
    qt.quantize(folder, config, output=OUTPUT / folder.name, overwrite=True, device=device)


def solve_by_gptqmodel(folder: Path, *, device: str) -> None:
    """Quantize the same text with GPTQModel."""
    from transformers import AutoTokenizer

    gptqmodel: Any = import_module("gptqmodel")

    tokens = AutoTokenizer.from_pretrained(folder)(text_file().read_text(encoding="utf-8"))["input_ids"]
    rows = [tokens[start : start + 2048] for start in range(0, 128 * 2048, 2048)]
    samples = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    model = gptqmodel.GPTQModel.load(str(folder), gptqmodel.QuantizeConfig(bits=4, group_size=128), device=device)
    model.quantize(samples, batch_size=1)
    model.save(str(OUTPUT / "gptqmodel"))


def load_in_4bit(folder: Path, *, device: str) -> None:
    """Load with transformers and bitsandbytes."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": device})


def nf4(folder: Path, *, device: str) -> None:
    """Quantize without an output."""
    qt.quantize(folder, qt.NF4(), device=device)


STEPS: dict[str, Callable[..., None]] = {
    "gptq": partial(solve, samples=128, length=2048, group_size=128),
    "gptq-smollm2": partial(solve, samples=32, length=512, group_size=64),
    "gptqmodel": solve_by_gptqmodel,
    "nf4": nf4,
    "load_in_4bit": load_in_4bit,
}


def step(name: str, folder: Path, device: str) -> None:
    """Run one job in this process, and print what it took as JSON."""
    started = time.perf_counter()
    STEPS[name](folder, device=device)
    print(json.dumps({"seconds": time.perf_counter() - started, **peaks()}))


def measured(name: str, folder: Path) -> dict[str, float]:
    """Return what a job takes in a process of its own."""
    command = [sys.executable, __file__, "--step", name, str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def copying_rate() -> float:
    """Return the bytes that the GPU reads and writes in a second."""
    source = torch.empty(8 * FLUSHED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * len(source) / (1e-6 * microseconds(lambda: target.copy_(source)))


def row(work: str, found: float, bound: float, unit: str, *, at_least: bool = False) -> None:
    """Print one line of the table."""
    holds = found >= bound if at_least else found <= bound
    sign = "at least" if at_least else "at most"
    print(f"| {work} | {found:.4g} {unit} | {sign} {bound:.4g} | {'held' if holds else 'NOT HELD'} |", flush=True)


def print_products(dtype: torch.dtype, rate: float) -> float:
    """Print the rows of single layers; return how much slower than an H200 this card is at large products."""
    weight = torch.randn(SHAPE).to("cuda", dtype)
    layers = {bits: gptq(torch.empty(SHAPE, device="meta"), bits=bits, group_size=128).to("cuda") for bits in (4, 8)}
    slower = 1.0
    for tokens, (theirs, bound) in PRODUCTS.items():
        x = torch.randn(tokens, SHAPE[1]).to("cuda", dtype)
        plain = microseconds(partial(torch.matmul, x, weight.T))
        slower = RATE / rate if tokens == 1 else plain / theirs
        work = f"{list(SHAPE)}, {tokens} tokens (16 bits: {plain:.0f} us)"
        row(work, microseconds(partial(layers[4], x)), slower * bound, "us")
        if tokens == 1:
            row("the same, 8 bits", microseconds(partial(layers[8], x)), slower * EIGHT_BITS, "us")
    return slower


def print_jobs(folder: Path, layers: int, slower: float) -> None:
    """Print the rows of whole jobs."""
    ours = measured("gptq", folder)
    row(f"GPTQ, 128 x 2048, {layers} layers", ours["seconds"], slower * 75 * layers / LAYERS, "s")
    row("its GPU peak", ours["gpu"] / 1e9, 12, "GB")
    if find_spec("gptqmodel") is not None:
        theirs = measured("gptqmodel", folder)
        row("its share of GPTQModel's time", ours["seconds"] / theirs["seconds"], 0.2, "")
    else:
        print("| its share of GPTQModel's time | GPTQModel is not installed | at most 0.2 | |")
    row("GPTQ of SmolLM2-135M, 32 x 512", measured("gptq-smollm2", SMOLLM2)["seconds"], slower * 7, "s")
    ours, theirs = measured("nf4", folder), measured("load_in_4bit", folder)
    row("NF4, share of load_in_4bit's time", ours["seconds"] / theirs["seconds"], 1.1, "")
    row("its share of the resident peak", ours["resident"] / theirs["resident"], 1 / 3, "")


def speeds(model: Any) -> tuple[float, float]:
    """Return tokens/s of reading a prompt, and of decoding by a graph."""
    from qtoolkit.evaluation.graph_generation import generate_by_graph

    prompt = torch.randint(3, 40_000, (1, PROMPT), device="cuda")
    with torch.no_grad():
        reading = microseconds(lambda: model(prompt, use_cache=False, logits_to_keep=1).logits)
    seconds = []
    for count in (4, NEW_TOKENS, 4, NEW_TOKENS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        generate_by_graph(model, prompt[:, :64], max_new_tokens=count, ends=(), on_note=print)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return PROMPT / reading * 1e6, (NEW_TOKENS - 4) / (seconds[3] - seconds[2])


def print_speeds(folder: Path, dtype: torch.dtype) -> None:
    """Print the rows of a prompt and of decoding: what GPTQ saved, beside 16 bits."""
    from transformers import AutoModelForCausalLM

    plain = speeds(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map={"": "cuda:0"}))
    torch.cuda.empty_cache()
    ours = speeds(qt.load(OUTPUT / folder.name, device="cuda").model)
    row(f"prompt of {PROMPT} tokens, of 16 bits ({plain[0]:.0f} tokens/s)", ours[0] / plain[0], 0.9, "", at_least=True)
    row(f"decoding, of 16 bits ({plain[1]:.1f} tokens/s)", ours[1] / plain[1], 2.2, "", at_least=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help="one job in this process, by itself")
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]), "cuda:0")
        return
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device on this machine")
    dtype = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    rate = copying_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {rate / 1e12:.2f} TB/s\n")
    print("| work | here | bound, scaled to this card | |\n|---|---|---|---|")
    torch.manual_seed(0)
    with torch.no_grad():
        slower = print_products(dtype, rate)
    folder = random_llama(options.layers)
    torch.cuda.empty_cache()
    print_jobs(folder, options.layers, slower)
    print_speeds(folder, dtype)
    shutil.rmtree(OUTPUT)


if __name__ == "__main__":
    main()
