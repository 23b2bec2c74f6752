"""Load checkpoints of `write*.py` with auto-gptq 0.7.1 and compare logits; in its environment."""

import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM
from common import compare, written
from safetensors.torch import load_file


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel.

    It leaves an embedding that is the head too as it was allocated, of any checkpoint: that is put there by hand.
    """
    model = AutoGPTQForCausalLM.from_quantized(
        str(path), device="cpu", use_safetensors=True, torch_dtype=torch.float32, use_triton=False
    )
    if model.config.tie_word_embeddings:
        stored = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
        model.model.get_input_embeddings().weight.data.copy_(stored)
    return model


if __name__ == "__main__":
    # Its layers multiply with weights in float16 and add in float16: 0.1 % each.
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder))]
    sys.exit("\n".join(compare("auto-gptq", paths, load, tolerance=0.01, contract="auto-gptq")) or 0)
