"""Load checkpoints of `write*.py` with auto-gptq 0.7.1 and compare logits; in its environment."""

import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM
from common import compare, written


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel."""
    return AutoGPTQForCausalLM.from_quantized(
        str(path), device="cpu", use_safetensors=True, torch_dtype=torch.float32, use_triton=False
    )


if __name__ == "__main__":
    # Its layers multiply with weights in float16 and add in float16: 0.1 % each.
    paths = [path for folder in sys.argv[1:] for path in written(Path(folder))]
    sys.exit("\n".join(compare("auto-gptq", paths, load, tolerance=0.01, contract="auto-gptq")) or 0)
