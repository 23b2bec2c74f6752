"""Nothing is put in place that its own reader does not open."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

import qtoolkit as qt
from qtoolkit import structural_reading
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.methods import bitsandbytes, weight_only
from qtoolkit.planning import layers
from tests.sample_models import plain_logits, random_model


@pytest.fixture(scope="module")
def llama4() -> PreTrainedModel:
    return random_model("llama4_text")


def test_the_plan_refuses_what_is_read_with_other_modules(llama4: PreTrainedModel) -> None:
    """transformers reads a layer for each expert of Llama 4, which keeps all of a block in one tensor."""
    config = qt.GPTQ(exclude=("lm_head", "*experts*"), format="compressed-tensors", group_size=32)
    with pytest.raises(UnsupportedModelError, match=r"takes no llama4_text: its Llama4TextExperts stays"):
        qt.plan(llama4, config)


@pytest.mark.parametrize("config", [qt.Int8(), qt.NF4(exclude=("lm_head", "*experts*"))], ids=["int8", "nf4"])
def test_experts_of_llama_4_that_stay_are_told_and_read(
    config: qt.Int8 | qt.NF4, llama4: PreTrainedModel, tmp_path: Path
) -> None:
    """They are stored in 16 bits as transformers reads them, a layer for each, and no codes of bitsandbytes."""
    q = qt.quantize(llama4, config, device="cpu", output=tmp_path / "result")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert any("experts" in layer.name and layer.skipped for layer in q.report.skipped)
    with safe_open(tmp_path / "result/model.safetensors", "pt") as file:
        expert = file.get_tensor("model.layers.0.feed_forward.experts.1.down_proj.weight")
    assert torch.equal(expert, llama4.get_parameter("model.layers.0.feed_forward.experts.down_proj")[1].T)
    tokens = torch.arange(2, 18)[None]  # [1, tokens]
    loaded = qt.load(tmp_path / "result", device="cpu")
    assert torch.equal(plain_logits(loaded.model, tokens), plain_logits(q.model, tokens))


def test_what_its_reader_does_not_open_is_not_put_in_place(
    llama4: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (layers, weight_only, bitsandbytes):
        monkeypatch.setattr(module, "patched_modules", lambda model, quant_method: {})
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
