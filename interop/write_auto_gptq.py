"""Quantize a small Llama with auto-gptq 0.7.1 in several ways, and keep the logits that it computes."""

import sys
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from auto_gptq.modeling import _base as base
from common import KINDS, keep, random_llama, random_samples
from read_auto_gptq import load


def allow_cpu() -> None:
    """Let it quantize without a GPU, which it refuses although nothing in it needs one."""
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_: None
    base.CUDA_0 = torch.device("cpu")


def main(folder: Path) -> None:
    """Write all kinds."""
    allow_cpu()
    random_llama().save_pretrained(folder / "base")
    for name, kind in KINDS.items():
        how = BaseQuantizeConfig(group_size=32, **kind)
        model = AutoGPTQForCausalLM.from_pretrained(str(folder / "base"), how, torch_dtype=torch.float32)
        model.quantize(random_samples(), use_triton=False, cache_examples_on_gpu=False)
        model.save_quantized(str(folder / name), use_safetensors=True)
        keep(load(folder / name), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
