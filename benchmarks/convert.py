"""Seconds and peak memory of `qt.convert`: a GPTQ checkpoint of 1.5 billion parameters to other formats.

Run `python benchmarks/convert.py [--blocks 28] [--formats compressed-tensors mlx gguf]`. A folder in the shape of
Qwen2-1.5B with random codes (4 bits, groups of 128, symmetric) is written once under `build/`, block by block. Each
conversion is a fresh process that has converted a small folder before, whose memory is taken off the peak. The block is
that of the model in 16 bits.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
TOKENIZER = BUILD / "models" / "SmolLM2-135M-Instruct"
HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 1536, 8960, 12, 2, 151_936
# Of the layers of a block: (outputs, inputs).
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN * KEYS // HEADS, HIDDEN),
    "self_attn.v_proj": (HIDDEN * KEYS // HEADS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
GROUP = 128
BLOCK_BYTES = 2 * sum(outputs * inputs for outputs, inputs in SHAPES.values())
JOB = """
import json, sys, time
import qtoolkit as qt
from qtoolkit.measure.peak import measure_peak
source, name, output, warm = sys.argv[1:]
qt.convert(warm, name, output + "-warm", overwrite=True)
started = time.monotonic(), time.process_time()
with measure_peak() as meter:
    qt.convert(source, name, output, overwrite=True)
peak = meter.report.peak_rss - meter.report.rss_before
print(json.dumps({"seconds": time.monotonic() - started[0], "cpu": time.process_time() - started[1], "peak": peak}))
"""


def layer(name: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
    """The tensors of a layer as auto-gptq stores them, its codes random and all zero points 8."""
    groups = inputs // GROUP
    word = torch.iinfo(torch.int32)
    return {
        f"{name}.qweight": torch.randint(word.min, word.max, (inputs // 8, outputs), dtype=torch.int32),
        f"{name}.qzeros": torch.full((groups, outputs // 8), 0x77777777, dtype=torch.int32),
        f"{name}.scales": (torch.rand(groups, outputs) * 0.01 + 0.001).half(),
        f"{name}.g_idx": (torch.arange(inputs) // GROUP).int(),
    }


def block(number: int) -> dict[str, torch.Tensor]:
    """All tensors of a block."""
    start = f"model.layers.{number}."
    tensors = {key: value for name, shape in SHAPES.items() for key, value in layer(start + name, *shape).items()}
    for name in ("q_proj", "k_proj", "v_proj"):
        outputs = SHAPES[f"self_attn.{name}"][0]
        tensors[f"{start}self_attn.{name}.bias"] = torch.zeros(outputs, dtype=torch.float16)
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{start}{name}.weight"] = torch.ones(HIDDEN, dtype=torch.float16)
    return tensors


def write_source(folder: Path, blocks: int, vocabulary: int = VOCABULARY) -> Path:
    """The folder, a file for each block."""
    from safetensors.torch import save_file
    from transformers import Qwen2Config

    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    places: dict[str, str] = {}
    size = 0
    outside = {
        "model.embed_tokens.weight": (torch.randn(vocabulary, HIDDEN) * 0.02).half(),
        "model.norm.weight": torch.ones(HIDDEN, dtype=torch.float16),
    }
    for number in range(blocks + 1):
        file, tensors = f"model-{number:05}.safetensors", block(number) if number < blocks else outside
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(tensors, file)
        size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=blocks,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        tie_word_embeddings=True,
        dtype="float16",
        architectures=["Qwen2ForCausalLM"],
    )
    config.quantization_config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True}
    config.quantization_config |= {"desc_act": False, "checkpoint_format": "gptq"}
    take_tokenizer(folder)
    (folder / "config.json").write_text(config.to_json_string())
    return folder


def take_tokenizer(folder: Path) -> None:
    """Copy SmolLM2's, since a `.gguf` file holds one; the sizes are what counts here."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)


def convert(source: Path, name: str, warm: Path) -> dict[str, float]:
    """Convert in a fresh process; returns seconds, processor seconds and the peak above the imports in bytes."""
    output = BUILD / "converted"
    command = [sys.executable, "-W", "ignore", "-c", JOB, str(source), name, str(output), str(warm)]
    try:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    finally:
        for folder in (output, output.with_name("converted-warm")):
            shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--blocks", type=int, default=28)
    parser.add_argument("--formats", nargs="+", default=["compressed-tensors", "mlx", "gguf"])
    options = parser.parse_args()
    source = write_source(BUILD / f"random-qwen2-{options.blocks}-blocks-gptq", options.blocks)
    warm = write_source(BUILD / "random-qwen2-warm-gptq", 1, vocabulary=49_152)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    billions = (options.blocks * BLOCK_BYTES // 2 + VOCABULARY * HIDDEN) / 1e9
    print(
        f"GPTQ of {billions:.2f} billion parameters, {size / 1e9:.2f} GB; in 16 bits a block has "
        f"{BLOCK_BYTES / 1e6:.1f} MB, the embedding {2 * VOCABULARY * HIDDEN / 1e6:.1f} MB; torch {torch.__version__}, "
        f"{os.cpu_count()} cores"
    )
    for name in options.formats:
        found = convert(source, name, warm)
        print(
            f"{name:<20} {found['seconds']:6.1f} s   {found['cpu']:6.1f} s of processors   peak above imports "
            f"{found['peak'] / 1e6:6.1f} MB, {found['peak'] / BLOCK_BYTES:.2f} blocks",
            flush=True,
        )


if __name__ == "__main__":
    main()
