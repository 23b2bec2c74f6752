"""The ruler puts methods into the order that the field knows."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.records import QualityReport
from tests.evaluation.plain import HELD_OUT
from tests.texts.calibration_texts import TEXT

pytestmark = pytest.mark.slow

BLOCKS = 1


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Any:
    """The first blocks of a real model: no good writer, but its weights and activations are real."""
    return AutoModelForCausalLM.from_pretrained(smollm2, num_hidden_layers=BLOCKS, dtype=torch.float32)


@pytest.fixture(scope="module")
def with_outliers(model: Any) -> Any:
    """The same with a few weights 40 times the largest of their layer, of an input that is always 0."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for block in changed.model.layers:
            block.post_attention_layernorm.weight[7] = 0
            for layer in (block.mlp.gate_proj, block.mlp.up_proj):
                layer.weight[[3, 50], 7] = 40 * layer.weight.abs().max()
    return changed


@pytest.fixture(scope="module")
def fitted(model: Any) -> dict[int, QualityReport]:
    """GPTQ's loss by its bits."""
    options: dict[str, Any] = {"group_size": 64, "sym": False, "num_samples": 8, "seq_len": 128, "refine": 0}
    options["calibration"] = [TEXT[100_000:400_000]]
    return {bits: measure(model, qt.GPTQ(bits=bits, **options)) for bits in (4, 3, 2)}


def measure(model: Any, config: Any) -> QualityReport:
    quantized = qt.quantize(model, config, device="cpu")
    return qt.evaluate(quantized, base=model, text=[HELD_OUT], seq_len=128, num_tokens=768, speed=False)


def test_more_bits_lose_less(model: Any, fitted: dict[int, QualityReport]) -> None:
    reports = [measure(model, qt.Int8()), *fitted.values()]
    divergences = [report.kl_divergence for report in reports]
    assert divergences == sorted(divergences)
    for better, worse in pairwise(reports):
        difference = worse.kl_divergence - better.kl_divergence
        assert difference > 3 * (worse.kl_divergence_se**2 + better.kl_divergence_se**2) ** 0.5
    agreement = [report.same_top_p for report in reports]
    assert agreement == sorted(agreement, reverse=True)


def test_text_helps_at_the_same_size(model: Any, fitted: dict[int, QualityReport]) -> None:
    """GPTQ in groups of 64 takes 4.28 bits a weight, NF4 without double quantization 4.5."""
    rounded = measure(model, qt.NF4(double_quant=False))
    assert fitted[4].kl_divergence < rounded.kl_divergence


def test_outliers_break_one_range_for_the_whole_tensor_and_not_int8(model: Any, with_outliers: Any) -> None:
    """LLM.int8() has a range for each output, so that an outlier costs only its own."""
    config = qt.ZeroPoint(bits=8, granularity="tensor")
    broken = measure(with_outliers, config).kl_divergence
    assert broken > 10 * measure(with_outliers, qt.Int8()).kl_divergence
    assert broken > 10 * measure(model, config).kl_divergence
