"""Layers whose weight transformers sets before packed codes are expanded: found without opening a checkpoint."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import qtoolkit as qt
from qtoolkit.models.first_values import layers_given_first_values
from scripts.small_models import small_config

TOWER = "model.vision_tower.encoder.layers.1.self_attn.q_proj"
TEXT = "model.language_model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def gemma() -> nn.Module:
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(small_config("gemma3"))


def test_those_of_siglip_alone_are_named(gemma: nn.Module) -> None:
    assert layers_given_first_values(gemma, [TOWER, TEXT, "no.such.layer"]) == (TOWER,)
    assert layers_given_first_values(gemma, [TEXT]) == ()


def test_a_layer_is_named_if_the_class_of_the_module_around_it_sets_it() -> None:
    """Mamba 2's mixer has two layers, of which its class sets one."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        mamba = AutoModelForCausalLM.from_config(small_config("mamba2"))
    inner, outer = "backbone.layers.1.mixer.in_proj", "backbone.layers.1.mixer.out_proj"
    assert layers_given_first_values(mamba, [inner]) == ()
    assert layers_given_first_values(mamba, [outer]) == (outer,)


def test_what_is_no_linear_layer_holds_no_packed_codes(gemma: nn.Module) -> None:
    assert layers_given_first_values(gemma, ["model.vision_tower.embeddings.patch_embedding"]) == ()


def test_the_model_keeps_its_weights(gemma: nn.Module) -> None:
    before = {name: id(tensor) for name, tensor in gemma.named_parameters()}
    layers_given_first_values(gemma, [TOWER, TEXT])
    assert {name: id(tensor) for name, tensor in gemma.named_parameters()} == before


def test_a_plan_tells_that_transformers_alone_does_not_open_a_packed_tower(gemma: nn.Module) -> None:
    model = type(gemma)(gemma.config).to(torch.bfloat16)
    packed = qt.AbsMax(granularity="group", group_size=32, format="compressed-tensors")
    plans = [qt.plan(model, replace(packed, include=include), device="cpu") for include in (("*vision_tower*",), None)]
    tower, text = ({one.reader: one for one in plan.readings}["transformers"] for plan in plans)
    assert not tower.loads
    assert "the model's class sets as it is opened" in tower.why
    assert text.loads
