"""The class of transformers that opens a checkpoint is the one that its config names."""

from typing import Any

import pytest

from qtoolkit.checkpoints.model_class import IMAGE_CLASS, TEXT_CLASS, auto_class_of


@pytest.mark.parametrize(
    ("kind", "named", "expected"),
    [
        pytest.param("llama", ["LlamaForCausalLM"], TEXT_CLASS, id="text"),
        pytest.param("llama", None, TEXT_CLASS, id="text, unnamed"),
        pytest.param("llama", ["LlamaForSequenceClassification"], None, id="another head"),
        pytest.param("mistral3", ["Mistral3ForConditionalGeneration"], IMAGE_CLASS, id="images"),
        pytest.param("qwen3_5", ["Qwen3_5ForConditionalGeneration"], IMAGE_CLASS, id="both, saved with images"),
        pytest.param("qwen3_5", ["Qwen3_5ForCausalLM"], TEXT_CLASS, id="both, saved as text"),
        pytest.param("qwen3_5", None, IMAGE_CLASS, id="both, unnamed"),
        pytest.param("kimi_k25", ["KimiK25ForConditionalGeneration"], IMAGE_CLASS, id="a name of its own code"),
        pytest.param("qwen2_5_vl", ["Qwen2_5_VLModel"], None, id="images without a head"),
        pytest.param("clip", ["CLIPModel"], None, id="neither"),
        pytest.param(3, None, None, id="no type"),
    ],
)
def test_the_class_is_the_one_that_the_config_names(kind: Any, named: Any, expected: str | None) -> None:
    assert auto_class_of({"model_type": kind, "architectures": named}) == expected
