"""What rounding the embedding and the head is predicted to cost is what it costs, where they are one and where not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qtoolkit as qt
from qtoolkit.methods import get_method
from qtoolkit.models.from_memory import open_loaded
from qtoolkit.planning.layers import embeddings_of, planner_of
from qtoolkit.sensitivity import measure_sensitivity
from qtoolkit.texts.calibration_text import Calibration
from tests.formats.gguf.small_models import small_model

pytestmark = pytest.mark.slow

WORDS = 96
TYPES = ("IQ4_NL", "Q8_0")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("title", ["llama", "gemma2", "gpt2"])
def test_the_predicted_loss_is_the_measured_one(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma scales what it looks up and caps its logits; GPT-2 adds positions."""
    model = small_model(title).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "norm" not in name:
                weight.mul_(3)
    tokens = torch.randint(3, WORDS, (16, 64), generator=torch.Generator().manual_seed(0))
    text = Calibration(tokens, "tokens", "")
    monkeypatch.setattr("qtoolkit.sensitivity.measuring._generated_text", lambda *_: text)
    checkpoint = open_loaded(model, None)
    config = qt.GGUF(tensor_type="Q8_0")
    layers = embeddings_of(checkpoint, "cpu")
    planner: Any = planner_of(get_method("gguf"), checkpoint, config)
    found = measure_sensitivity(checkpoint, planner, config, dict.fromkeys(layers, TYPES), device="cpu").by_layer()
    for layer in layers:
        weight = model.get_submodule(layer.name).weight
        kept = weight.detach().clone()
        with torch.no_grad():
            before = model(tokens).logits.log_softmax(-1)
            weight.copy_(planner.rounded(kept, layer, config.choosing("IQ4_NL")))
            after = model(tokens).logits.log_softmax(-1)
            weight.copy_(kept)
        measured = float(nn.functional.kl_div(after, before, log_target=True, reduction="sum")) / tokens.numel()
        loss = found[layer.name]["IQ4_NL"]
        assert abs(loss.loss - measured) < 4 * loss.standard_error + 0.15 * measured, (layer.name, loss, measured)
        assert found[layer.name]["Q8_0"].loss < loss.loss / 50
