"""Load checkpoints of `write*.py` with transformers + optimum + gptqmodel and compare logits; in their environment."""

import json
import sys
from pathlib import Path

import torch
from common import compare, written
from gptqmodel import BACKEND, GPTQModel
from transformers import AutoModelForCausalLM, GPTQConfig

# Its own loader reads as its kernels do in transformers; it is asked where transformers refuses, and about these.
ITS_OWN = ("3bit-sym-static-gptq", "4bit-asym-static-gptq", "4bit-one-group")


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel, which needs no compiler; through transformers."""
    values = json.loads((path / "config.json").read_text())["quantization_config"]
    how = GPTQConfig(bits=values["bits"], backend="torch") if values["quant_method"] == "gptq" else None
    return AutoModelForCausalLM.from_pretrained(
        path, device_map={"": "cpu"}, dtype=torch.float16, quantization_config=how
    )


def load_alone(path: Path) -> torch.nn.Module:
    """The same by gptqmodel's own loader."""
    return GPTQModel.load(str(path), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model


def is_gptq(path: Path) -> bool:
    """Whether the checkpoint is of the format that gptqmodel is for."""
    return json.loads((path / "config.json").read_text())["quantization_config"]["quant_method"] == "gptq"


if __name__ == "__main__":
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder)) if is_gptq(path)]
    # Activations in float16 through two blocks.
    wrong = compare("transformers + optimum + gptqmodel", paths, load, contract="transformers")
    alone = [path for path in paths if path.name in ITS_OWN or "mixed" in path.name or "gptqmodel" in path.name]
    sys.exit("\n".join(wrong + compare("gptqmodel", alone, load_alone, contract="gptqmodel")) or 0)
