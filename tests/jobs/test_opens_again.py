"""Nothing is put in place that its own reader does not open."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import qtoolkit as qt
from qtoolkit import structural_reading
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.planning import layers
from tests.sample_models import plain_logits, random_model


@pytest.fixture(scope="module")
def llama4() -> PreTrainedModel:
    return random_model("llama4_text")


def test_the_plan_refuses_what_is_read_with_other_modules(llama4: PreTrainedModel) -> None:
    """transformers reads int8 with a layer for each expert of Llama 4, which keeps all of a block in one tensor."""
    with pytest.raises(UnsupportedModelError, match=r"takes no llama4_text: its Llama4TextExperts stays"):
        qt.plan(llama4, "int8")


def test_what_its_reader_does_not_open_is_not_put_in_place(
    llama4: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(layers, "patched_module", lambda model, quant_method: None)
    with pytest.raises(UnsupportedModelError, match="its own reader does not open the result"):
        qt.quantize(llama4, "int8", device="cpu", output=tmp_path / "result")
    assert not list(tmp_path.iterdir())
    in_memory = qt.quantize(llama4, "int8", device="cpu")
    with pytest.raises(UnsupportedModelError, match="its own reader does not open the result"):
        in_memory.save(tmp_path / "result")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["nf4", "absmax", "fp8", "zero_point"])
def test_methods_that_take_experts_take_llama_4(llama4: PreTrainedModel, method: str, tmp_path: Path) -> None:
    q = qt.quantize(llama4, method, device="cpu", output=tmp_path / "result")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert "experts.0.down_proj" in " ".join(layer.name for layer in q.report.layers)
    tokens = torch.arange(2, 18)[None]  # [1, tokens]
    expected, ours = (
        plain_logits(q.model, tokens),
        plain_logits(qt.load(tmp_path / "result", device="cpu").model, tokens),
    )
    # Its reader adds up experts in another order.
    assert (ours - expected).norm() < 0.02 * expected.norm()


def test_formats_that_are_read_as_they_are_take_llama_4(tmp_path: Path) -> None:
    config = qt.AbsMax(bits=4, granularity="group", group_size=32, format="mlx")
    q = qt.quantize(random_model("llama4_text"), config, device="cpu", output=tmp_path / "result")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert isinstance(qt.load(tmp_path / "result", device="cpu"), qt.QuantizedModel)


def test_a_conversion_that_its_reader_does_not_open_is_not_put_in_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    qt.quantize(
        random_model("llama"), qt.AbsMax(bits=4, granularity="group", group_size=64), output=tmp_path / "source"
    )

    def unreadable(checkpoint: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(structural_reading, "reader_of", unreadable)
    with pytest.raises(UnsupportedModelError, match=r"does not open the result.*\(no such layer\)"):
        qt.convert(tmp_path / "source", "mlx", tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
