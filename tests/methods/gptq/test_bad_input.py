"""Bad weights, texts and options are refused in one line that names them, before work starts where that can be."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError, UnsupportedModelError
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model


def refused(kind: type[Exception], match: str, model: Any, config: qt.GPTQ, **options: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        qt.quantize(model, config, device="cpu", **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_a_weight_that_is_no_number(value: float, tokenizer: Any) -> None:
    model = random_model("llama", vocab_size=len(tokenizer))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    match = r"model\.layers\.1\.mlp\.(gate|up)_proj.* holds NaN or infinity|layers\.1\..*calibrated"
    refused(CheckpointError, match, model, gptq(), tokenizer=tokenizer)


def test_activations_that_are_no_numbers(tokenizer: Any) -> None:
    model = random_model("llama", vocab_size=len(tokenizer))
    with torch.no_grad():
        # A number itself, and too large for its products.
        model.model.layers[1].input_layernorm.weight.fill_(3e38)
    match = r"model\.layers\.1\.self_attn\.q_proj cannot be calibrated \(its inputs hold NaN or infinity\)"
    refused(UnsupportedModelError, match, model, gptq(), tokenizer=tokenizer)


def test_weights_that_are_finer_than_any_scale_are_told(tokenizer: Any) -> None:
    model = random_model("llama", vocab_size=len(tokenizer))
    with torch.no_grad():
        # 64 outputs of 64 inputs, and of these 16 outputs in two groups of 32.
        model.model.layers[0].self_attn.o_proj.weight[:16] *= 1e-5
    report = qt.quantize(model, gptq(qep_alpha=0), device="cpu", tokenizer=tokenizer).report
    told = "smallest scale     32 groups got 6.1e-05  (in 1 layer (model.layers.0.self_attn.o_proj), whose weights"
    assert told in str(report)
    assert report.calibration is not None
    raised = {layer.name: layer.raised for layer in report.calibration.layers if layer.raised}
    assert raised == {"model.layers.0.self_attn.o_proj": 32}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"calibration": []}, "an empty list"),
        ({"calibration": ["too short"]}, "tokens"),
        ({"calibration": "no such file.txt"}, "no such file"),
        ({"calibration": 5}, "calibration"),
    ],
    ids=["empty", "too short", "missing", "a number"],
)
def test_text_of_no_use(changes: dict[str, Any], match: str, tokenizer: Any) -> None:
    model = random_model("llama", vocab_size=len(tokenizer))
    refused(ConfigError, match, model, gptq(**changes), tokenizer=tokenizer)


def test_text_without_a_tokenizer() -> None:
    refused(ConfigError, "give tokenizer=", random_model("llama"), gptq())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"bits": 7}, "bits must be one of 2, 3, 4, 5, 6, 8, got 7"),
        ({"group_size": 16}, "group_size must be -1, or at least 32, got 16"),
        ({"damp_percent": 0.0}, "damp_percent must lie between 0 and 1, got 0.0"),
        ({"damp_percent": 1.0}, "damp_percent must lie between 0 and 1, got 1.0"),
        ({"desc_act": True, "order": "natural"}, "desc_act=True forms groups in order of activation"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"seq_len": -3}, "seq_len must be at least 1, got -3"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_options_that_there_are_not(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        qt.GPTQ(**changes)


def test_a_group_size_that_does_not_divide_is_made_smaller_and_told() -> None:
    config = gptq(group_size=128, calibration="self", num_samples=4, seq_len=16)
    result = qt.quantize(random_model("llama"), config, device="cpu")
    assert result.report.settings["group_size"] == 64
    assert {layer.adjusted for layer in result.report.layers} == {
        "group_size 64 instead of 128, which does not fit all layers"
    }


@pytest.mark.parametrize(("full_range", "told"), [(False, "fall apart"), (True, "lose much")])
def test_a_recipe_that_loses_much_is_warned_of(full_range: bool, told: str) -> None:
    config = gptq(bits=2, full_range=full_range, calibration="self", num_samples=2, seq_len=16)
    assert told in str(qt.quantize(random_model("llama"), config, device="cpu").report)


def test_a_resume_repo_needs_an_output() -> None:
    refused(ConfigError, "resume_repo='me/job' needs output=", random_model("llama"), gptq(), resume_repo="me/job")


def test_the_calibration_text_is_nowhere_in_the_result(tiny_llama: Path, tmp_path: Path) -> None:
    sentence = "The owl of Minerva spreads its wings. "
    result = qt.quantize(tiny_llama, gptq(calibration=[sentence * 200]), output=tmp_path / "out", device="cpu")
    texts = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    assert not any(b"Minerva" in text for text in texts)
    assert "Minerva" not in repr(result.report.to_dict())
    assert result.report.settings["calibration"] == "1 texts"
