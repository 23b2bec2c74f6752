"""Load checkpoints of `write.py` with auto-gptq 0.7.1 and compare logits; in its environment."""

import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM
from common import MIXED, compare, written

# It knows the first format only, and has no words for layers of a block that are left as they are.
UNKNOWN_TO_IT = ("gptq_v2", "some-left", MIXED)


def load(path: Path) -> torch.nn.Module:
    """On the CPU, with its plain torch kernel."""
    return AutoGPTQForCausalLM.from_quantized(
        str(path), device="cpu", use_safetensors=True, torch_dtype=torch.float32, use_triton=False
    )


if __name__ == "__main__":
    paths = [path for path in written(Path(sys.argv[1])) if not path.name.endswith(UNKNOWN_TO_IT)]
    # Its layers multiply with weights in float16 and add in float16: 0.1 % each.
    compare("auto-gptq", paths, load, tolerance=0.01)
