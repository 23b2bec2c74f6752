"""RWKV is quantized without the rescaling of its weights that it does while it runs, and computes the same."""

from pathlib import Path

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from tests.sample_models import plain_logits

pytestmark = pytest.mark.slow

TOKENS = torch.arange(3, 20)[None]  # [1, tokens]


def rwkv(folder: Path) -> RwkvForCausalLM:
    """A small one that halves its hidden states after each block, saved before it runs."""
    torch.manual_seed(0)
    config = RwkvConfig(hidden_size=64, num_hidden_layers=3, vocab_size=256, rescale_every=1, context_length=64)
    model = RwkvForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(folder)
    return model


def test_all_layers_are_quantized_and_compute_as_before(tmp_path: Path) -> None:
    model = rwkv(tmp_path / "source")
    q = qt.quantize(tmp_path / "source", "absmax", device="cpu", output=tmp_path / "result")
    linear = {name for name, module in model.named_modules() if type(module) is torch.nn.Linear}
    assert {layer.name for layer in q.report.layers} == linear - {"head"}
    assert any(note.startswith("rescale_every is 0 instead of 1") for note in q.report.notes)
    assert q.model.config.rescale_every == 0
    expected, ours = plain_logits(model, TOKENS), plain_logits(q.model, TOKENS)
    assert (ours - expected).norm() < 0.05 * expected.norm()
    assert torch.equal(plain_logits(qt.load(tmp_path / "result", device="cpu").model, TOKENS), ours)
    with pytest.raises(UnsupportedModelError, match="divided weights of its layers as it ran"):
        qt.plan(model, "absmax", device="cpu")
