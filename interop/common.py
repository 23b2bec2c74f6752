"""What the scripts of this folder share. Needs torch, transformers and safetensors alone, since each runs elsewhere."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from layers import LARGEST, watch
from safetensors.torch import load_file, save_file
from seen import keep_seen
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

# Of logits where inputs are rounded, beside layers that are held to the bound of the others: see `layers.py`.
ROUNDED_INPUTS = 0.06
EXPECTED = "expected.safetensors.test"
# What the writer says of a folder: {"stored": ..., "readers": {"vllm": true}, "tokenizer": [...]}, the second by the
# reader contract.
CLAIMS = "claims.json.test"
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


def logits_of(model: Callable[..., Any], tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    """Float32 logits, (1, tokens, vocabulary)."""
    with torch.no_grad():
        return model(input_ids=tokens).logits.float().contiguous()


def keep(model: torch.nn.Module, path: Path, tokens: torch.Tensor = TOKENS) -> None:
    """Write the logits of a model beside its checkpoint."""
    save_file({"tokens": tokens, "logits": logits_of(model, tokens)}, path / EXPECTED)
    print(path.name, flush=True)


def written(folder: Path) -> Iterable[Path]:
    """The checkpoints that `keep` was called for."""
    return sorted(entry.parent for entry in folder.glob(f"*/{EXPECTED}"))


def tokenizer_facts(tokenizer: Any) -> list[Any]:
    """What readers are to find of a tokenizer, as JSON holds it."""
    return [tokenizer("17 4 250").input_ids, tokenizer.eos_token_id, tokenizer.chat_template]


def claims_of(path: Path) -> dict[str, Any]:
    """What the writer says of a checkpoint; nothing where it keeps logits alone."""
    file = path / CLAIMS
    return json.loads(file.read_text()) if file.is_file() else {}


def check_tokenizer(path: Path) -> None:
    """Exit where a checkpoint's tokenizer is not to this transformers what it was to its writer."""
    wanted = claims_of(path).get("tokenizer")
    if wanted is None:
        return
    found = tokenizer_facts(AutoTokenizer.from_pretrained(path))
    if found != wanted:
        sys.exit(f"the tokenizer of {path.name} is read as {found}")


def distance(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """How far log probabilities are from those that are wanted: root of the mean square, and largest.

    Both in standard deviations of the logits that are wanted. A program may give log probabilities in place of logits,
    and none behind the last token.
    """
    apart = (logits.log_softmax(-1) - wanted[:, : logits.shape[1]].log_softmax(-1)) / wanted.std()
    return apart.square().mean().sqrt().item(), apart.abs().max().item()


def try_to_read(path: Path, load: Callable[[Path], Any], bound: float) -> tuple[bool, float, str]:
    """Whether a reader computes what was kept, how far off it is, and in words; infinitely far where it does not load.

    Where inputs are rounded the bound is for each layer, and how far off that is which is furthest.
    """
    wanted, stored = load_file(path / EXPECTED), claims_of(path).get("stored", {})
    try:
        model = load(path)
        layers = watch(model.named_modules(), path, stored) if stored.get("input_type") in LARGEST else {}
        logits = logits_of(model, wanted["tokens"])
    except Exception as error:  # noqa: BLE001 whatever a reader raises is its refusal
        return False, math.inf, f"refused: {type(error).__name__}: {' '.join(str(error).split())}"
    mean, largest = distance(logits, wanted["logits"])
    words = f"{mean:.5f} of the deviation of the logits off, {largest:.5f} at most"
    # A NaN is not below.
    if stored.get("input_type") not in LARGEST:
        return mean < bound, mean, words
    furthest = max(layers.values(), default=math.inf)
    words += f"; {len(layers)} layers, given its own inputs, none further off than {furthest:.5f}"
    return mean < ROUNDED_INPUTS and all(apart < bound for apart in layers.values()), furthest, words


def compare(
    reader: str,
    paths: Iterable[Path],
    load: Callable[[Path], Any],
    *,
    tolerance: float = 0.02,
    contract: str = "",
    lacks: str = "",
) -> list[str]:
    """Load each checkpoint, print how far its logits are from the kept ones, and return what is not as it should be.

    Args:
        reader: for what is printed.
        paths: the checkpoints.
        load: loads one, or raises; what is called with token ids, and has `named_modules`.
        tolerance: how far logits may be, in their standard deviations.
        contract: the reader's name in the contract, which says of each checkpoint whether it is loaded: one that is not
            must be refused, or its logits be wrong; one of which nothing is kept for it is left out. Empty for a
            reader that must load all.
        lacks: words of a refusal of which this machine is the reason, not the checkpoint; a regular expression.
    """
    failed, read, seen, furthest = [], 0, 0, 0.0
    for path in paths:
        claims = claims_of(path)
        if contract and contract not in claims["readers"]:
            continue
        check_tokenizer(path)
        loads = claims["readers"][contract] if contract else True
        is_read, error, words = try_to_read(path, load, tolerance)
        right = is_read == loads
        says_nothing = bool(lacks and re.search(lacks, words))
        if says_nothing:
            right = True
            words = f"this machine lacks what it was dispatched to: {words}"
        print(f"{path.name:<40} {words[:300]}{'' if loads else ' (not loaded, by the contract)'}", flush=True)
        if contract and not says_nothing:
            keep_seen(path, contract, is_read)
        seen, read = seen + 1, read + is_read
        furthest = max(furthest, error if is_read and math.isfinite(error) else 0.0)
        if not right:
            failed.append(path.name)
    if not seen:
        return [f"{reader} was given no checkpoint: run the script that writes them first"]
    print(f"{reader}: {read} of {seen} read, none further off than {furthest:.5f} (bound {tolerance})", flush=True)
    return [f"{reader} reads these otherwise than it should: {', '.join(failed)}"] if failed else []
