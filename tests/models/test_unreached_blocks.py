"""Blocks that a text passes over are found, and stay as they are where a text is what they would be calibrated with."""

import pytest
import torch
from torch import nn
from transformers import MllamaForConditionalGeneration, PreTrainedModel

from qtoolkit.models.structure import block_list
from qtoolkit.models.unreached_blocks import unreached_blocks
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
