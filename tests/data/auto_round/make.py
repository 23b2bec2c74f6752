# ruff: noqa: INP001, S106
"""Make these checkpoints with auto-round 0.16.1, in its own environment.

Run as `python tests/data/auto_round/make.py FOLDER` where auto-round, transformers 5.23 and torch are installed. The
files `config.json` and `model.safetensors` of each are kept here.
"""

import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONFIG = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 64,
}
DOWN, UP, QUERY = "model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"
KINDS = {
    "symmetric": ("auto_round", {"sym": True, "layer_config": {DOWN: {"bits": 8}, QUERY: {"bits": 16}}}),
    "zero_points": ("auto_round", {"sym": False, "layer_config": {UP: {"bits": 2}}}),
    "gptq_zero_points": ("auto_round:auto_gptq", {"sym": False}),
    "awq": ("auto_round:auto_awq", {"sym": False}),
}


def main(out: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).half().save_pretrained(out / "base")
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(64)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w2", pad_token="w2")
    tokenizer.save_pretrained(out / "base")
    for name, (packing, options) in KINDS.items():
        model = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
        chosen = {"bits": 4, "group_size": 32, "iters": 0, "nsamples": 2, "seqlen": 16, **options}
        job = AutoRound(model, tokenizer, disable_opt_rtn=True, device_map="cpu", **chosen)
        job.quantize_and_save(str(out / name), format=packing)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
