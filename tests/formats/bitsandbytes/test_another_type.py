"""A checkpoint of bitsandbytes is loaded in another type than its file's, as a whole."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from tests.sample_models import plain_logits, random_model

TOKENS = torch.arange(2, 34)[None]  # [1, tokens]


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_norms_and_their_biases_have_the_type_asked_for(method: str, tmp_path: Path) -> None:
    """GPT-NeoX's norms have both, and torch multiplies and adds one type."""
    qt.quantize(random_model("gpt_neox", torch.float16), method, device="cpu", output=tmp_path / "result")
    own, exact = (qt.load(tmp_path / "result", device="cpu", dtype=name).model for name in ("auto", "float32"))
    types = {name: tensor.dtype for name, tensor in exact.named_parameters() if tensor.is_floating_point()}
    assert {*types.values()} == {torch.float32} and "gpt_neox.layers.0.input_layernorm.weight" in types
    logits = plain_logits(exact, TOKENS)
    assert logits.dtype == torch.float32
    assert (plain_logits(own, TOKENS).float() - logits).norm() < 0.02 * logits.norm()
