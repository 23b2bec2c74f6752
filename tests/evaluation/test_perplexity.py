"""Perplexity and KL divergence are those of a plain loop, whether a model is loaded or read block by block."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from tests.evaluation.plain import HELD_OUT, divergences, perplexity, windows_of
from tests.sample_models import ARCHITECTURES, random_model

OPTIONS: dict[str, Any] = {"text": [HELD_OUT], "seq_len": 48, "num_tokens": 48 * 5, "speed": False, "device": "cpu"}


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "gemma2", "falcon"])
def models(request: pytest.FixtureRequest, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a random model in float32, and the model with other last weights."""
    size = len(tokenizer)
    model = random_model(request.param, torch.float32, vocab_size=size)
    folder = tmp_path_factory.mktemp("model") / request.param
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    other = random_model(request.param, torch.float32, vocab_size=size)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return folder, model, other


def test_every_architecture_is_measured_as_by_a_plain_loop(models: Any, tokenizer: Any) -> None:
    folder, model, other = models
    windows = windows_of(tokenizer, HELD_OUT, 48, 48 * 5)
    report = qt.evaluate(other, base=folder, tokenizer=tokenizer, **OPTIONS)
    assert (report.num_windows, report.num_tokens) == (5, 5 * 47)
    assert report.perplexity == pytest.approx(perplexity(other, windows), rel=1e-4)
    assert report.base_perplexity == pytest.approx(perplexity(model, windows), rel=1e-4)
    reference = divergences(model, other, windows)
    assert report.kl_divergence == pytest.approx(reference.mean().item(), abs=1e-6)
    assert report.kl_divergence_median == pytest.approx(reference.quantile(0.5).item(), abs=2e-6)
    assert report.kl_divergence_p99 == pytest.approx(reference.quantile(0.99).item(), abs=2e-6)
    assert report.kl_divergence_max == pytest.approx(reference.max().item(), abs=2e-6)
    assert report.kl_divergence > 1e-4


def test_a_model_read_block_by_block_differs_from_itself_by_nothing(models: Any, tokenizer: Any) -> None:
    folder, model, _ = models
    report = qt.evaluate(folder, base=model, tokenizer=tokenizer, **OPTIONS)
    # Experts run one after the other in the one, and all at once in the other.
    assert report.kl_divergence == pytest.approx(0, abs=1e-7)
    assert report.same_top_p == 1
    assert report.perplexity_ratio == pytest.approx(1, abs=1e-6)


def test_a_real_model_is_measured_as_by_a_plain_loop(smollm2: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16)
    windows = windows_of(AutoTokenizer.from_pretrained(smollm2), HELD_OUT, 128, 512)
    report = qt.evaluate(smollm2, text=[HELD_OUT], seq_len=128, num_tokens=512, device="cpu")
    assert report.perplexity == pytest.approx(perplexity(model, windows), rel=1e-4)
    assert report.kl_divergence is None and report.base is None
    assert any("speed was not measured" in note for note in report.notes)


def test_what_has_logits_of_its_own_can_be_measured(tokenizer: Any) -> None:
    """One that holds all tokens for equally likely has the size of its vocabulary as perplexity."""

    class Uniform:
        def logits(self, input_ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*input_ids.shape, len(tokenizer))

    report = qt.evaluate(Uniform(), base=Uniform(), tokenizer=tokenizer, **OPTIONS)
    assert report.perplexity == pytest.approx(len(tokenizer))
    assert (report.perplexity_se, report.kl_divergence) == (pytest.approx(0, abs=1e-3), 0)
