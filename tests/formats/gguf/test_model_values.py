"""Numbers of a config that llama.cpp's runtime reads, where its converter writes others."""

from math import log

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.checkpoints.gguf_architectures import ARCHITECTURES
from qtoolkit.formats.gguf.model_values import numbers_of
from tests.formats.gguf.small_models import SMALL


def test_the_mlp_of_a_gpt2_may_have_another_width() -> None:
    """llama.cpp's converter writes four times the width of the model, and its runtime would not open the file."""
    kind, settings = SMALL["gpt2"]
    config = CONFIG_MAPPING[kind](**settings | {"n_inner": 128})
    assert numbers_of(config, ARCHITECTURES[kind])["gpt2.feed_forward_length"].content == 128


def test_a_factor_of_attention_of_yarn_takes_the_place_of_the_usual_one() -> None:
    """llama.cpp multiplies what it reads with 0.1 log(factor) + 1, as its `llama-context.cpp` does."""
    kind, settings = SMALL["qwen2, yarn"]
    rope = settings["rope_parameters"] | {"attention_factor": 1.4}
    values = numbers_of(CONFIG_MAPPING[kind](**settings | {"rope_parameters": rope}), ARCHITECTURES[kind])
    assert values["qwen2.rope.scaling.attn_factor"].content * (0.1 * log(4) + 1) == pytest.approx(1.4)
