"""Load checkpoints of `write.py` with transformers + optimum + gptqmodel and compare logits; in their environment."""

import sys
from pathlib import Path

import torch
from common import MIXED, compare, written
from gptqmodel import BACKEND, GPTQModel
from transformers import AutoModelForCausalLM, GPTQConfig


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel, which needs no compiler; mixed bits by gptqmodel's own loader."""
    if path.name == MIXED:
        loaded = GPTQModel.load(str(path), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
        return loaded.model
    how = GPTQConfig(bits=int(path.name[0]), backend="torch")
    return AutoModelForCausalLM.from_pretrained(
        path, device_map={"": "cpu"}, dtype=torch.float16, quantization_config=how
    )


if __name__ == "__main__":
    # Activations in bfloat16 through two blocks.
    compare("gptqmodel", written(Path(sys.argv[1])), load, tolerance=0.03)
