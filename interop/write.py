"""Write small GPTQ checkpoints of every kind, each with inputs and the logits that qtoolkit computes from it.

Run `python interop/write.py FOLDER`. `interop/read_*.py` load them with other readers, in environments of their own.
"""

import json
import sys
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import qtoolkit as qt

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
KINDS = {
    f"{bits}bit-{'sym' if sym else 'asym'}-{'desc_act' if desc_act else 'static'}-{checkpoint_format}": {
        "bits": bits,
        "sym": sym,
        "desc_act": desc_act,
        "checkpoint_format": checkpoint_format,
    }
    for bits, sym, desc_act, checkpoint_format in product(
        (2, 3, 4, 8), (True, False), (False, True), ("gptq", "gptq_v2")
    )
}
KINDS["4bit-one-group"] = {"group_size": -1}
KINDS["4bit-some-left"] = {"exclude": ("lm_head", "layers.0.mlp.down_proj", "o_proj")}


def random_llama() -> torch.nn.Module:
    """A Llama whose logits differ from token to token, as random weights alone would not make them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=256, num_key_value_heads=2, dtype="float16", **SHAPE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(3)
    return model


def main(folder: Path) -> None:
    """Write all kinds."""
    tokens = torch.arange(3, 67)[None]
    for name, changes in KINDS.items():
        options = {"group_size": 32, "calibration": "self", "num_samples": 8, "seq_len": 64} | changes
        made = qt.quantize(random_llama(), qt.GPTQ(**options), output=folder / name, overwrite=True, device="cpu")
        exact = made.model.float()
        for module in exact.modules():
            # The exact weight, for whatever number of tokens.
            if hasattr(module, "dequantize"):
                module.float()
        with torch.no_grad():
            logits = exact(tokens).logits
        save_file({"tokens": tokens, "logits": logits.contiguous()}, folder / name / "expected.safetensors.test")
        print(name, json.dumps(changes), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
