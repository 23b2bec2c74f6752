"""Quantize a small Llama with auto-gptq 0.7.1 in several ways, and keep the logits that it computes."""

import sys
from itertools import product
from pathlib import Path

import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from auto_gptq.modeling import _base as base
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM


def allow_cpu() -> None:
    """Let it quantize without a GPU, which it refuses although nothing in it needs one."""
    torch.cuda.is_available = lambda: True
    torch.cuda.synchronize = torch.cuda.empty_cache = lambda *_: None
    base.CUDA_0 = torch.device("cpu")


def main(folder: Path) -> None:
    """Write all kinds."""
    allow_cpu()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(3)
    model.save_pretrained(folder / "base")
    samples = [
        {"input_ids": row[None], "attention_mask": torch.ones(1, 64).long()} for row in torch.randint(3, 256, (8, 64))
    ]
    tokens = torch.arange(3, 67)[None]
    for bits, sym, desc_act in product((2, 3, 4, 8), (True, False), (False, True)):
        how = BaseQuantizeConfig(bits=bits, group_size=32, sym=sym, desc_act=desc_act)
        quantized = AutoGPTQForCausalLM.from_pretrained(str(folder / "base"), how, torch_dtype=torch.float32)
        quantized.quantize(samples, use_triton=False, cache_examples_on_gpu=False)
        path = folder / f"{bits}bit-{'sym' if sym else 'asym'}-{'desc_act' if desc_act else 'static'}"
        quantized.save_quantized(str(path), use_safetensors=True)
        again = AutoGPTQForCausalLM.from_quantized(
            str(path), device="cpu", use_safetensors=True, torch_dtype=torch.float32, use_triton=False
        )
        with torch.no_grad():
            logits = again(input_ids=tokens).logits.float()
        save_file({"tokens": tokens, "logits": logits.contiguous()}, path / "expected.safetensors.test")
        print(path.name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
