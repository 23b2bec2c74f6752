"""NF4, FP4 and int8 give the very logits of transformers + bitsandbytes, and the promised sizes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

import qtoolkit as qt
from qtoolkit.methods import MethodConfig
from tests.sample_models import plain_logits

TOKENS = torch.arange(1, 65).reshape(1, 64)
FOUR_BIT = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
TWINS = {
    "nf4": (qt.NF4(), FOUR_BIT | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, 111_800_000),
    "fp4": (qt.FP4(), FOUR_BIT | {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True}, 111_800_000),
    "int8": (qt.Int8(), {"load_in_8bit": True, "llm_int8_threshold": 6.0}, 163_600_000),
}


def quantized_by(name: str, model: Path) -> tuple[qt.QuantizedModel, PreTrainedModel]:
    """A model as we quantize it, and its twin by transformers."""
    config, settings, _ = TWINS[name]
    theirs = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=BitsAndBytesConfig(**settings), device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    ours = qt.quantize(model, config, device="cpu")
    assert torch.equal(plain_logits(ours.model, TOKENS), plain_logits(theirs, TOKENS))
    return ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_smollm2_is_the_twin(smollm2: Path, name: str) -> None:
    ours, theirs = quantized_by(name, smollm2)
    assert ours.memory.footprint_before == 269_030_272
    # transformers' own count leaves the scales out.
    assert theirs.get_memory_footprint() < ours.memory.footprint_after <= TWINS[name][2]


@pytest.mark.parametrize("name", TWINS)
def test_a_small_one_is_the_twin(tiny_llama: Path, name: str) -> None:
    """With Colab's versions too."""
    ours, theirs = quantized_by(name, tiny_llama)
    assert theirs.get_memory_footprint() < ours.memory.footprint_after


def test_fp4_takes_as_much_as_nf4(smollm2: Path) -> None:
    """It differs from NF4 in its 16 values alone; `test_conformance.py` measures what a plan predicts."""
    plan = qt.plan(smollm2, TWINS["fp4"][0], device="cpu")
    assert plan.source.footprint == 269_030_272
    assert plan.footprint_after <= TWINS["fp4"][2]


@pytest.mark.parametrize(("config", "settings", "_"), TWINS.values(), ids=TWINS)
def test_their_config_is_understood(
    tiny_llama: Path, config: MethodConfig, settings: dict[str, object], _: int
) -> None:
    made = qt.plan(tiny_llama, BitsAndBytesConfig(**settings), device="cpu")
    ours = qt.plan(tiny_llama, config, device="cpu")
    assert (made.method, made.settings, made.layers) == (ours.method, ours.settings, ours.layers)
