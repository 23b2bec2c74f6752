"""Weights that the numbers of a format do not hold: refused by the name of the layer, or told."""

from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

GROUPS: dict[str, Any] = {"granularity": "group", "group_size": 32}
SELF: dict[str, Any] = {"calibration": "self", "num_samples": 2, "seq_len": 32, "refine": 0, "qep_alpha": 0}
LAYER = "model.layers.0.mlp.down_proj"


def with_weight(value: float, dtype: torch.dtype) -> Any:
    model = random_model("llama").to(dtype)
    model.config.dtype = dtype
    with torch.no_grad():
        model.get_submodule(LAYER).weight[:3, :32] = value
    return model


@pytest.mark.parametrize(
    "config",
    [
        qt.AbsMax(bits=8, format="mlx", **GROUPS),
        qt.ZeroPoint(bits=8, format="mlx", lossy=True, **GROUPS),
        gptq(format="mlx", **SELF),
    ],
    ids=lambda config: config.method,
)
def test_what_mlx_cannot_multiply_is_refused_by_name(config: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        qt.quantize(with_weight(65504, torch.float16), config, device="cpu")
    message = str(caught.value)
    assert LAYER in message and "MLX multiplies scales up to" in message and "\n" not in message
    assert message.endswith("or name another format or method")


@pytest.mark.parametrize(
    "config", [gptq(**SELF), qt.AbsMax(bits=4, format="native", **GROUPS)], ids=lambda config: config.method
)
def test_weights_beyond_scales_in_float16_are_refused_by_name(config: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        qt.quantize(with_weight(1e7, torch.bfloat16), config, device="cpu")
    message = str(caught.value)
    assert LAYER in message and "at most 65504" in message and "\n" not in message


@pytest.mark.parametrize(("value", "told"), [(1e-6, True), (1e-2, False)])
def test_groups_below_what_scales_in_float16_hold_exactly_are_told(value: float, told: bool) -> None:
    config = qt.AbsMax(bits=4, format="native", **GROUPS)
    result = qt.quantize(with_weight(value, torch.bfloat16), config, device="cpu")
    notes = [note for note in result.report.notes if "float16" in note]
    expected = (
        f"3 groups of 1 layer ({LAYER}) have weights so small that their scale is none of float16's normal numbers: "
        "these weights are coarser; format='compressed-tensors' keeps scales in the model's type"
    )
    assert notes == ([expected] if told else [])
