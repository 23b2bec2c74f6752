"""Layers whose weight files hold in one tensor get their rows; those held in several stay, with the reason."""

from pathlib import Path

import pytest
import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.models.renaming import converted_layers
from scripts.small_models import small_model

TOKENS = torch.arange(20, 36)[None]


def test_layers_that_files_hold_in_parts_are_found() -> None:
    merged = converted_layers(small_model("minimax_m3_vl", dtype=torch.bfloat16).to("meta"))
    assert {name.rpartition("layers.")[2] for name in merged} == {
        f"{index}.mlp.shared_experts.gate_up_proj" for index in range(2)
    }
    assert all(merged.values())
    assert converted_layers(small_model("mixtral", dtype=torch.bfloat16).to("meta")) == {}


@pytest.mark.skipif("molmo2" not in CONFIG_MAPPING, reason="these transformers have no Molmo 2")
@pytest.mark.parametrize("name", ["gptq", "absmax", "nf4"])
def test_layers_that_files_hold_as_one_are_quantized_each(name: str, tmp_path: Path) -> None:
    # Its files hold queries, keys and values as one, of other sizes each, and gate and up.
    model = small_model("molmo2", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    config = qt.GPTQ(group_size=32, calibration=TOKENS.tolist(), num_samples=1, seq_len=16, refine=0)
    q = qt.quantize(tmp_path / "source", config if name == "gptq" else name, output=tmp_path / "result", device="cpu")
    layers = {layer.name.rpartition(".")[2] for layer in q.report.layers}
    assert layers == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    loaded = qt.load(tmp_path / "result", device="cpu").model
    with torch.no_grad():
        logits = model(TOKENS).logits.float()
        assert torch.equal(loaded(TOKENS).logits, q.model(TOKENS).logits)
        error = (loaded(TOKENS).logits.float() - logits).norm() / (logits - logits.mean(-1, keepdim=True)).norm()
    # Queries in the place of keys, or gate in that of up, make it 1.
    assert error < (0.1 if name == "absmax" else 0.4)


def test_experts_that_a_file_numbers_with_those_of_another_mixture_stay() -> None:
    # ERNIE 4.5 VL's experts for texts and for images are `mlp.experts.0` to 7 in its files.
    plan = qt.plan(small_model("ernie4_5_vl_moe", dtype=torch.bfloat16), "absmax", device="cpu")
    left = {layer.name.rpartition(".mlp.")[2]: layer.skipped for layer in plan.skipped if "experts" in layer.skipped}
    assert left == dict.fromkeys(
        ["text_moe.experts", "vision_moe.experts"], "experts in one tensor (Ernie4_5_VLMoeMoeExperts)"
    )
