"""Quantize a small Llama with optimum + gptqmodel in several ways, and keep the logits that it computes."""

import sys
from itertools import product
from pathlib import Path

import torch
from optimum.gptq import GPTQQuantizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPTQConfig, LlamaConfig, LlamaForCausalLM


def main(folder: Path) -> None:
    """Write all kinds."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    data = [
        {"input_ids": row[None], "attention_mask": torch.ones(1, 64).long()} for row in torch.randint(3, 256, (8, 64))
    ]
    tokens = torch.arange(3, 67)[None]
    for bits, sym, desc_act in product((2, 3, 4, 8), (True, False), (False, True)):
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
        quantizer = GPTQQuantizer(
            bits=bits, group_size=32, sym=sym, desc_act=desc_act, act_group_aware=not desc_act, dataset=data
        )
        model = quantizer.quantize_model(model)
        quantizer.dataset = model.config.quantization_config["dataset"] = None
        path = folder / f"{bits}bit-{'sym' if sym else 'asym'}-{'desc_act' if desc_act else 'static'}"
        quantizer.save(model, str(path))
        again = AutoModelForCausalLM.from_pretrained(
            path, device_map={"": "cpu"}, dtype=torch.float16, quantization_config=GPTQConfig(bits, backend="torch")
        )
        with torch.no_grad():
            logits = again(input_ids=tokens).logits.float()
        save_file({"tokens": tokens, "logits": logits.contiguous()}, path / "expected.safetensors.test")
        print(path.name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
