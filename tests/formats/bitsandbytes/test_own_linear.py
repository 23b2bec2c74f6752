"""Layers of Falcon's own class, which transformers leaves, are quantized as plain ones are, and read again."""

from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch

import qtoolkit as qt
from tests.sample_models import random_model

TOKENS = torch.arange(16)[None]


@pytest.fixture(scope="module")
def falcon() -> object:
    return random_model("falcon", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_its_layers_are_quantized_saved_and_read_again(name: str, falcon: object, tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in falcon.state_dict().items()}  # type: ignore[attr-defined]
    q = qt.quantize(falcon, name, output=tmp_path / "result", device="cpu")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert len(q.report.layers) == 8
    for layer in q.report.layers:
        weight = weights[f"{layer.name}.weight"]
        codes = q.model.state_dict()[f"{layer.name}.weight"]
        if name == "nf4":
            own, _ = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        else:
            own, _, _ = bnb.int8_vectorwise_quant(weight.to(torch.float16))
        assert torch.equal(codes, own)
    loaded = qt.load(tmp_path / "result", device="cpu")
    with torch.no_grad():
        assert torch.equal(loaded.model(TOKENS).logits, q.model(TOKENS).logits)


def test_plain_transformers_is_said_not_to_read_them(falcon: object) -> None:
    plan = qt.plan(falcon, "nf4", device="cpu")
    readings = {reading.reader: reading for reading in plan.readings}
    assert "FalconForCausalLM" in readings["transformers"].why
    assert not readings["transformers"].loads
    assert readings["qtoolkit"].loads
    assert "import qtoolkit" in readings["transformers"].remedy
