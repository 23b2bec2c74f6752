"""Write small checkpoints that servers tell apart, as GPTQ and compressed-tensors, each with logits and contract.

Run `python interop/write_servers.py FOLDER`. `interop/read_vllm.py` and others load them, or refuse, as the reader
contract says.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from common import keep, random_llama
from transformers import LlamaForCausalLM
from write import claim, numbers

import qtoolkit as qt

PACKED = {"format": "compressed-tensors"}
UNIT, DOWN = {"rules": {"*.q_proj": {"bits": 8}}}, {"rules": {"*.down_proj": {"bits": 8}}}
# Options of GPTQ; "tied" is the model's.
MADE: dict[str, dict[str, Any]] = {
    **{f"packed-{bits}bit": {**PACKED, "bits": bits} for bits in (2, 3, 4, 5, 8)},
    "packed-4bit-asym": {**PACKED, "sym": False},
    "packed-4bit-channels": {**PACKED, "group_size": -1},
    "packed-4bit-64inputs": {**PACKED, "group_size": 64},
    "packed-4bit-tied": {**PACKED, "tied": True},
    **{f"packed-4bit-embeddings{bits}": {**PACKED, "embeddings": bits} for bits in (4, 8)},
    **{f"packed-4bit-embeddings{bits}-tied": {**PACKED, "embeddings": bits, "tied": True} for bits in (4, 8)},
    "packed-4bit-mixed-unit": {**PACKED, **UNIT},
    "packed-4bit-mixed-down": {**PACKED, **DOWN},
    "packed-4bit-some-left": {**PACKED, "exclude": ("lm_head", "layers.0.mlp.down_proj", "o_proj")},
    "packed-4bit-left-unit": {**PACKED, "exclude": ("lm_head", "layers.0.mlp.gate_proj")},
    "gptq-3bit": {"bits": 3},
    "gptq-4bit": {},
    "gptq-4bit-64inputs": {"group_size": 64},
    "gptq-4bit-tied": {"tied": True},
    "gptq-4bit-mixed-unit": UNIT,
    "gptq-4bit-mixed-down": DOWN,
    "gptq-4bit-left-unit": {"exclude": ("lm_head", "layers.0.mlp.gate_proj")},
}
ABSMAX = {
    "absmax-8bit": qt.AbsMax(),
    "absmax-4bit": qt.AbsMax(bits=4, granularity="group", group_size=32),
    "zero-point-4bit": qt.ZeroPoint(bits=4, granularity="group", group_size=32, format="compressed-tensors"),
}
CHEAP = {"group_size": 32, "calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0}


def random_tied(tied: bool) -> LlamaForCausalLM:
    """The model of the other scripts, its head tied to the embedding or not."""
    model = random_llama(dtype=torch.float16)
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def main(folder: Path) -> None:
    """Write all kinds."""
    gptq = {
        name: qt.GPTQ(**CHEAP | {k: v for k, v in options.items() if k != "tied"}) for name, options in MADE.items()
    }
    for name, config in (gptq | ABSMAX).items():
        model = random_tied("tied" in MADE.get(name, {}))
        qt.quantize(model, config, output=folder / name, overwrite=True, device="cpu", tokenizer=numbers())
        claim(folder / name, numbers())
        keep(qt.load(folder / name, device="cpu", dtype="float32").model, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
