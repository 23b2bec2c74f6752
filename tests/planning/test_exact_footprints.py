"""Predicted footprints are those that are measured, to the byte, of models with types and states of their own."""

from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.models import structure
from scripts.small_models import small_model
from tests.sample_models import random_model

TEXT = [[7, 8, 9, 10] * 8]
CONFIGS: dict[str, Any] = {
    "absmax": qt.AbsMax(),
    "nf4": qt.NF4(),
    "gptq": qt.GPTQ(calibration=TEXT, num_samples=1, seq_len=32, refine=0),
}


@pytest.mark.parametrize("config", ["absmax", "nf4"])
@pytest.mark.parametrize("architecture", ["deepseek_v3", "nemotron_h"])
def test_tensors_that_are_float32_in_any_model(architecture: str, config: str) -> None:
    q = qt.quantize(random_model(architecture), CONFIGS[config], device="cpu")
    assert any(buffer.dtype == torch.float32 for name, buffer in q.model.named_buffers() if "correction" in name)
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert q.report.warnings == qt.plan(random_model(architecture), CONFIGS[config], device="cpu").warnings


def test_states_of_calibration_do_not_stay() -> None:
    q = qt.quantize(random_model("recurrent_gemma"), CONFIGS["gptq"], device="cpu")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after


# A run narrows a tensor of the first; the second keeps in float32 what has "scale" in its name, which is not meant for
# the scales of layers; the third has tensors that are plain attributes.
ODD = [("ctrl", "gptq"), ("hy_v4", "gptq"), ("inkling_mm_model", "absmax")]


@pytest.mark.parametrize(("kind", "config"), ODD)
def test_tensors_of_other_types_and_places(kind: str, config: str) -> None:
    q = qt.quantize(small_model(kind, dtype=torch.bfloat16), CONFIGS[config], device="cpu")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after


def test_a_convolution_is_no_expert() -> None:
    skipped = qt.plan(random_model("recurrent_gemma"), "absmax", device="cpu").skipped
    reasons = {layer.name.rpartition(".")[2]: layer.skipped for layer in skipped}
    assert reasons["conv_1d"] == "convolution"
    assert structure.kind_of(torch.nn.Conv2d(1, 1, 1)) == "convolution"
