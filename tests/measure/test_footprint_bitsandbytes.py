"""The scales and tables of bitsandbytes count: beside the sizes that follow from each layer's shape."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from qtoolkit.measure.footprint import memory_footprint

pytest.importorskip("bitsandbytes")


def load(folder: Path, **settings: object) -> PreTrainedModel:
    config = BitsAndBytesConfig(**settings) if settings else None
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )


def shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """[out, in] of the linear layers that are quantized, seen in the plain model."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [(layer.out_features, layer.in_features) for name, layer in layers.items() if name != "lm_head"]


def nf4_bytes(rows: int, columns: int, *, double_quant: bool) -> int:
    """A weight in 4-bit codes, one scale per 64 of them and 16 levels in float32.

    With double quantization the scales have 8 bits, and blocks of 256 scales a float32 each, beside 256 levels and
    a mean. No layer shares its tables with another.
    """
    num_scales = rows * columns // 64
    scales = num_scales + 4 * math.ceil(num_scales / 256) + 256 * 4 + 4 if double_quant else 4 * num_scales
    return rows * columns // 2 + 16 * 4 + scales


def forward(model: PreTrainedModel) -> None:
    with torch.inference_mode():
        model(torch.tensor([[1, 2, 3]]))


def test_bfloat16(smollm2: Path) -> None:
    assert memory_footprint(load(smollm2)) == 269_030_272


@pytest.mark.parametrize("double_quant", [True, False], ids=["double quantization", "plain scales"])
def test_nf4(tiny_llama: Path, double_quant: bool) -> None:
    plain = load(tiny_llama)
    quantized = load(
        tiny_llama,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    change = sum(nf4_bytes(*shape, double_quant=double_quant) - 2 * math.prod(shape) for shape in shapes(plain))
    assert memory_footprint(quantized) == memory_footprint(plain) + change
    # transformers' own figure leaves scales and tables out.
    assert quantized.get_memory_footprint() < memory_footprint(quantized)


def test_int8_before_and_after_the_first_forward_pass(tiny_llama: Path) -> None:
    """bitsandbytes moves codes and scales from the weight to a state beside it when first used: they count once."""
    plain = load(tiny_llama)
    quantized = load(tiny_llama, load_in_8bit=True, llm_int8_threshold=6.0)
    change = sum(rows * columns + 4 * rows - 2 * rows * columns for rows, columns in shapes(plain))
    assert memory_footprint(quantized) == memory_footprint(plain) + change
    forward(quantized)
    # The columns found to be outliers stay in each layer's state.
    outliers = sum(module.state.idx.nbytes for module in quantized.modules() if hasattr(module, "state"))
    assert memory_footprint(quantized) == memory_footprint(plain) + change + outliers
