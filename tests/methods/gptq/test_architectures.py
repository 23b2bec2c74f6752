"""GPTQ finds the layers of every architecture by its structure, and what it saves is what it made."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from tests.sample_models import ARCHITECTURES, MORE_ARCHITECTURES, random_model

# Within a block; for experts those of the first.
LAYERS = {
    "llama": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj "
    "mlp.gate_proj mlp.up_proj mlp.down_proj",
    "phi3": "self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj",
    "gpt2": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "opt": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj fc1 fc2",
    "bloom": "self_attention.query_key_value self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "gpt_neox": "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "falcon": "self_attention.query_key_value self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "mixtral": "self_attn.q_proj mlp.experts.0.w1 mlp.experts.0.w2 mlp.experts.0.w3 mlp.experts.3.w2",
    "qwen2_moe": "self_attn.q_proj mlp.experts.0.gate_proj mlp.experts.3.down_proj mlp.shared_expert.up_proj",
    "qwen3_moe": "self_attn.q_proj mlp.experts.0.gate_proj mlp.experts.3.down_proj",
}
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
TOKENS = torch.arange(2, 34).reshape(2, 16)  # [32] -> [2, 16]
CONFIG = qt.GPTQ(calibration="self", num_samples=8, seq_len=32, group_size=32)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE_ARCHITECTURES])
def test_it_is_quantized_and_read_back(architecture: str, tmp_path: Path) -> None:
    model = random_model(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokenless = qt.quantize(model, CONFIG, output=tmp_path / "out", device="cpu")
    found = {layer.name.split(".0.", 1)[1] for layer in tokenless.report.layers if ".0." in layer.name}
    wanted = set(LAYERS.get(architecture, LAYERS["llama"]).split())
    assert wanted <= found if architecture in MIXTURES else wanted == found
    calibration = tokenless.report.calibration
    assert calibration is not None and len(calibration.layers) == len(tokenless.report.layers)
    assert 0 < calibration.mean_error < 0.05
    again = qt.load(tmp_path / "out", device="cpu")
    assert isinstance(again, qt.QuantizedModel)
    with torch.no_grad():
        logits = tokenless.model(TOKENS).logits
        assert torch.equal(again.model(TOKENS).logits, logits)
        exact = model(TOKENS).logits
    assert (logits - exact).norm() < 0.3 * exact.norm()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_experts_that_no_token_reached_are_told() -> None:
    model = random_model("mixtral")
    with torch.no_grad():
        # The router sends everything to the first two.
        model.model.layers[0].mlp.gate.weight.zero_()
    report = qt.quantize(model, CONFIG, device="cpu").report
    assert report.calibration is not None
    unseen = {layer.name for layer in report.calibration.layers if layer.num_inputs == 0}
    assert len(unseen) == 6 and all(name.startswith("model.layers.0.mlp.experts.") for name in unseen)
    assert "no token reached them" in str(report)
    experts = "model.layers.0.mlp.experts."
    (note,) = (note for note in report.notes if note.startswith("no token reached"))
    assert note.startswith(f"no token reached 6 of {len(report.calibration.layers)} layers ({experts}")
    assert note.count(experts) == 3
    assert "and 3 more), which were calibrated with the tokens of all experts: " in note


def test_a_model_without_blocks_is_refused_in_one_line() -> None:
    model = random_model("llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(qt.QToolkitError) as caught:
        qt.quantize(model, CONFIG, device="cpu")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "all at once"])
def test_many_batches_give_what_one_gives(sequential: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama", torch.float32)
    config = qt.GPTQ(calibration="self", num_samples=9, seq_len=32, group_size=32, true_sequential=sequential)
    whole = qt.quantize(model, config, device="cpu").model
    monkeypatch.setattr("qtoolkit.stream.samples._WHOLE_BYTES", 0)
    monkeypatch.setattr("qtoolkit.stream.samples._BATCH_BYTES", 4 * 4 * 128 * 32 * 2)
    parts = qt.quantize(model, config, device="cpu").model
    with torch.no_grad():
        difference = whole(TOKENS).logits - parts(TOKENS).logits
        assert difference.norm() < 0.02 * whole(TOKENS).logits.norm()
