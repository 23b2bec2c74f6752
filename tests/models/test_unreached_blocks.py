"""Blocks that a text passes over are found, and stay as they are where a text is what they would be calibrated with."""

import pytest
import torch
from torch import nn
from transformers import (
    Gemma3nForConditionalGeneration,
    MllamaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
)

from qtoolkit.models.structure import block_list, parts_beside_text
from qtoolkit.models.unreached_blocks import unreached_blocks, unreached_parts
from scripts.small_models import small_config

pytestmark = pytest.mark.slow


def mllama() -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = MllamaForConditionalGeneration(small_config("mllama")).eval()
    return model


def test_blocks_of_images_are_found() -> None:
    assert unreached_blocks(mllama()) == {"model.language_model.layers.1"}


def test_blocks_after_one_that_needs_values_count_as_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mllama()
    found = block_list(model)
    assert found is not None
    monkeypatch.setattr(found[1][0], "forward", lambda *_, **__: torch.zeros(1, device="meta").item())
    assert unreached_blocks(model) == frozenset()
    monkeypatch.undo()
    monkeypatch.setattr(found[1][2], "forward", lambda *_, **__: torch.zeros(1, device="meta").item())
    assert unreached_blocks(model) == {"model.language_model.layers.1"}


def test_a_model_of_text_alone_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = mllama().model.language_model
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", None)
    assert unreached_blocks(text) == frozenset()


def test_parts_that_look_up_tokens_of_a_text_are_reached() -> None:
    """Gemma 3n's projectors do, for tokens that stand for images and sound; its own tower is of the package timm."""
    config = small_config("gemma3n")
    own = config.vision_config
    tower = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4}
    vision = SiglipVisionConfig(intermediate_size=64, **tower)
    for name in ("rms_norm_eps", "vocab_size", "vocab_offset"):
        setattr(vision, name, getattr(own, name))
    config.__dict__["vision_config"] = vision
    with torch.device("meta"):
        model = Gemma3nForConditionalGeneration(config).eval()
    assert {"model.embed_vision", "model.embed_audio"} < {*parts_beside_text(model).values()}
    assert unreached_parts(model) == ("model.audio_tower", "model.vision_tower")
    assert unreached_parts(mllama()) == ("model.multi_modal_projector", "model.vision_model")
    assert unreached_parts(model.model.language_model) == ()
