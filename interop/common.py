"""What the scripts of this folder share. Needs torch, transformers and safetensors alone, since each runs elsewhere."""

import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

# Layers with different bits: auto-gptq and optimum give all the same.
MIXED = "4bit-mixed"
TEMPLATE = "{% for message in messages %}{{ message['content'] }} </s> {% endfor %}"
EXPECTED = "expected.safetensors.test"
TOKENS = torch.arange(3, 67)[None]  # (1, 64)
KINDS = {
    f"{bits}bit-{'sym' if sym else 'asym'}-{'desc_act' if desc_act else 'static'}": {
        "bits": bits,
        "sym": sym,
        "desc_act": desc_act,
    }
    for bits, sym, desc_act in product((2, 3, 4, 8), (True, False), (False, True))
}


def random_llama(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A Llama whose logits differ from token to token, as random weights alone would not make them."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        # Unlike the defaults: a reader that does not find them computes something else.
        rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )
    model = LlamaForCausalLM(config).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(3)
    return model


def random_samples() -> list[dict[str, torch.Tensor]]:
    """Eight samples of 64 tokens to calibrate on."""
    torch.manual_seed(1)
    return [
        {"input_ids": row[None], "attention_mask": torch.ones(1, 64).long()} for row in torch.randint(3, 256, (8, 64))
    ]


def logits_of(model: torch.nn.Module, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    """Float32 logits, (1, tokens, vocabulary)."""
    with torch.no_grad():
        return model(input_ids=tokens).logits.float().contiguous()


def keep(model: torch.nn.Module, path: Path) -> None:
    """Write the logits of a model beside its checkpoint."""
    save_file({"tokens": TOKENS, "logits": logits_of(model)}, path / EXPECTED)
    print(path.name, flush=True)


def written(folder: Path) -> Iterable[Path]:
    """The checkpoints that `keep` was called for."""
    return sorted(entry.parent for entry in folder.glob(f"*/{EXPECTED}"))


def check_tokenizer(path: Path) -> None:
    """Exit where a checkpoint's tokenizer, if it has one, is not that of `write.py` to this transformers."""
    if not (path / "tokenizer.json").is_file():
        return
    tokenizer = AutoTokenizer.from_pretrained(path)
    found = (tokenizer("17 4 250").input_ids, tokenizer.eos_token_id, tokenizer.chat_template)
    if found != ([17, 4, 250], 2, TEMPLATE):
        sys.exit(f"the tokenizer of {path.name} is read as {found}")


def compare(reader: str, paths: Iterable[Path], load: Callable[[Path], torch.nn.Module], tolerance: float) -> None:
    """Load each checkpoint, print how far its logits are from the kept ones, and exit with 1 if any is too far."""
    failed, seen = [], 0
    for path in paths:
        check_tokenizer(path)
        wanted = load_file(path / EXPECTED)
        logits = logits_of(load(path), wanted["tokens"])
        error = ((logits - wanted["logits"]).norm() / wanted["logits"].norm()).item()
        print(f"{path.name:<40} relative error of the logits {error:.5f}", flush=True)
        seen += 1
        # A NaN is not below.
        if not error < tolerance:
            failed.append(path.name)
    if not seen:
        sys.exit(f"{reader} was given no checkpoint: run the script that writes them first")
    sys.exit(f"{reader} reads these differently: {', '.join(failed)}" if failed else 0)
