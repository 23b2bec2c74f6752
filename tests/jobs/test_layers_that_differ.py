"""A model whose layers differ in shape, Gemma 4, is planned, quantized, saved and read again."""

from pathlib import Path

import torch

import qtoolkit as qt
from tests.sample_models import random_model


def test_gemma_4_goes_the_whole_way(tmp_path: Path) -> None:
    model = random_model("gemma4_text")
    plan = qt.plan(model, "absmax", device="cpu", context=64)
    cache = next(term for term in plan.inference.memory if term.name == "keys and values")
    assert cache.source.endswith("2 layers, 2 heads of 32")
    q = qt.quantize(model, "absmax", device="cpu", output=tmp_path / "result")
    assert q.memory.footprint_after == plan.footprint_after
    loaded = qt.load(tmp_path / "result", device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens).logits, q.model(tokens).logits)
