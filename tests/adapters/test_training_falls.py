"""The loss falls on codes by as much as on NF4 and in full precision, with the same seed and order of examples."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import qtoolkit as qt

# Sequences of eight of the tokens, [batches, samples, tokens].
BATCHES = torch.randint(3, 11, (20, 8, 12), generator=torch.Generator().manual_seed(0))


def fall(model: Any, rate: float = 2e-2) -> float:
    """By how much the loss of batches that are new to the model falls, in one epoch."""
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=["v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    adam = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=rate)
    losses = []
    for ids in BATCHES:
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    return losses[0] - sum(losses[-3:]) / 3


def test_the_loss_falls_by_the_same(quantized_folder: Path, tiny_llama: Path) -> None:
    def loaded() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)

    full = fall(loaded())
    nf4 = fall(qt.quantize(loaded(), qt.NF4(compute_dtype="float32"), device="cpu").model)
    codes = fall(qt.load(quantized_folder, device="cpu", dtype="float32").model)
    assert full > 0.4
    assert abs(codes / full - 1) < 0.05 and abs(codes / nf4 - 1) < 0.05
    # With a frozen adapter there is no fall, but for that of other batches.
    assert abs(fall(qt.load(quantized_folder, device="cpu", dtype="float32").model, rate=0.0)) < 0.2 * full
