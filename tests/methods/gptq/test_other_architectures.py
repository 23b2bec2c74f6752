"""GPTQ of models whose blocks are found, filled and run otherwise than those of plain decoders."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.models import structure
from tests.sample_models import random_model

CONFIG = qt.GPTQ(bits=8, group_size=32, calibration=[[*range(3, 35)]], num_samples=1, seq_len=32)
TOKENS = torch.arange(3, 35)[None]
# The list of blocks, and quantized layers of each block.
EXPECTED = {
    "bamba": ("model.layers", [{"mamba.out_proj"}, {"self_attn.q_proj"}]),
    "falcon_h1": ("model.layers", [{"mamba.out_proj", "self_attn.q_proj"}] * 2),
    "nemotron_h": ("model.layers", [{"mixer.out_proj"}, {"mixer.q_proj"}, {"mixer.up_proj"}, set()]),
    "gemma3": ("model.language_model.layers", [{"self_attn.q_proj", "mlp.down_proj"}] * 2),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_it_is_quantized_and_read_again(architecture: str, tmp_path: Path) -> None:
    model = random_model(architecture)
    q = qt.quantize(model, CONFIG, device="cpu", output=tmp_path / "result")
    blocks, expected = EXPECTED[architecture]
    names = {layer.name for layer in q.report.layers}
    for index, layers in enumerate(expected):
        assert {f"{blocks}.{index}.{layer}" for layer in layers} <= names
    assert all(name.startswith(f"{blocks}.") for name in names)
    with torch.no_grad():
        full, quantized = (one(TOKENS).logits.float() for one in (model, q.model))
        assert (quantized - full).norm() < 0.05 * full.norm()
        loaded = qt.load(tmp_path / "result", device="cpu")
        assert torch.equal(loaded.model(TOKENS).logits.float(), quantized)  # type: ignore[union-attr]


def test_blocks_are_found_whatever_they_are_called() -> None:
    """Of two lists that are equally long, the one beside the token embedding holds the blocks."""
    model: Any = random_model("gemma3")
    inner = model.model
    for old, new in (("vision_tower", "a"), ("language_model", "z")):
        inner._modules[new] = inner._modules.pop(old)
    inner.get_input_embeddings = lambda: inner.z.embed_tokens
    assert len(inner.a.encoder.layers if hasattr(inner.a, "encoder") else inner.a.vision_model.encoder.layers) == 2
    assert structure.block_list(model) == ("model.z.layers", inner.z.layers)


def test_blocks_are_those_that_a_text_reaches() -> None:
    """Calls alone tell them from a tower of equal depth that stands within the model of the text."""
    model: Any = random_model("gemma3").to("meta")
    inner = model.model
    text = inner.language_model
    text._modules = {"tower": inner._modules.pop("vision_tower"), **text._modules}
    assert structure.block_list(model) == ("model.language_model.layers", text.layers)
