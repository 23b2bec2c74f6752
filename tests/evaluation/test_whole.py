"""What an evaluation reports beside the figures: speed, the noise floor, text that the model writes, other methods."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from tests.evaluation.plain import HELD_OUT
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"text": [HELD_OUT], "seq_len": 64, "num_tokens": 640, "device": "cpu"}


def test_a_loaded_model_is_timed(tiny_llama: Path) -> None:
    quantized = qt.quantize(tiny_llama, "absmax", device="cpu")
    report = qt.evaluate(quantized, base=tiny_llama, **OPTIONS)
    speed = report.speed
    assert speed is not None
    assert (speed.prompt_tokens, speed.new_tokens, speed.num_runs) == (64, 32, 3)
    for name in ("tokens_per_second", "prompt_tokens_per_second"):
        slowest, fastest = getattr(speed, f"{name}_range")
        assert 0 < slowest <= getattr(speed, name) <= fastest
    assert report.tokens_per_second == speed.tokens_per_second
    assert speed.peak is not None and speed.peak.peak_rss > 0
    assert "3 runs after 1 to warm up" in str(report)


@pytest.mark.parametrize("config", [qt.NF4(), qt.Int8(), qt.ZeroPoint(), gptq()], ids=lambda config: config.method)
def test_a_saved_result_is_measured_as_the_one_in_memory(tiny_llama: Path, tmp_path: Path, config: Any) -> None:
    quantized = qt.quantize(tiny_llama, config, output=tmp_path / "out", device="cpu")
    ours = qt.evaluate(quantized, base=tiny_llama, speed=False, **OPTIONS)
    again = qt.evaluate(tmp_path / "out", base=tiny_llama, speed=False, **OPTIONS)
    assert ours.kl_divergence == pytest.approx(again.kl_divergence, rel=1e-4)
    assert 0 < ours.kl_divergence < 0.1
    assert ours.text_fingerprint == again.text_fingerprint


def test_what_loading_a_result_leaves_out_is_noted(tiny_llama: Path, tmp_path: Path) -> None:
    qt.quantize(tiny_llama, "absmax", output=tmp_path / "out", device="cpu")
    weights = tmp_path / "out" / "model.safetensors"
    save_file({**load_file(weights), "extra": torch.ones(1)}, weights, {"format": "pt"})
    report = qt.evaluate(tmp_path / "out", speed=False, **OPTIONS)
    assert report.notes.count("weights that belong to nothing in the model are left out: extra") == 1


def test_rounding_alone_is_the_noise_floor(tiny_llama: Path) -> None:
    quantized = qt.quantize(tiny_llama, qt.AbsMax(bits=4), device="cpu")
    report = qt.evaluate(quantized, base=tiny_llama, noise_floor=True, speed=False, **OPTIONS)
    assert 0 < report.noise_floor < report.kl_divergence / 10
    assert "noise floor on the first 8 windows" in report.notes


def test_a_base_in_float32_has_no_noise(tmp_path: Path, tokenizer: Any) -> None:
    random_model("llama", torch.float32, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    report = qt.evaluate(tmp_path, base=tmp_path, noise_floor=True, speed=False, **OPTIONS)
    assert (report.noise_floor, report.kl_divergence, report.perplexity_ratio) == (0, 0, 1)


def test_the_base_writes_the_text_that_both_are_measured_on(tiny_llama: Path) -> None:
    quantized = qt.quantize(tiny_llama, "nf4", device="cpu")
    options = OPTIONS | {"text": "self", "num_tokens": 320}
    report = qt.evaluate(quantized, base=tiny_llama, speed=False, **options)
    assert (report.text, report.num_windows, report.num_tokens) == ("self", 5, 5 * 63)
    assert any("tokens that the model wrote itself" in note for note in report.notes)
    again = qt.evaluate(tiny_llama, speed=False, **options)
    assert again.text_fingerprint == report.text_fingerprint
    assert again.perplexity == pytest.approx(report.base_perplexity)


def test_the_model_stays_as_it_was(tiny_llama: Path) -> None:
    model = qt.load(tiny_llama, device="cpu").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    qt.evaluate(model, **OPTIONS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
