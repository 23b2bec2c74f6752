"""A model read part by part computes what the whole model does, for every architecture, and keeps nothing."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.quantized import ignore_progress
from qtoolkit.stream.blocks import StreamedModel
from tests.sample_models import ARCHITECTURES, MORE_ARCHITECTURES, random_model


def opened(model: object) -> Checkpoint:
    return open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=ignore_progress)


@pytest.mark.parametrize("kind", ["folder", "loaded"])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE_ARCHITECTURES])
def test_all_parts_together_are_the_model(architecture: str, kind: str, tmp_path: Path) -> None:
    model = random_model(architecture, torch.float32)
    tokens = torch.randint(3, 256, (2, 24))
    if kind == "folder":
        model.save_pretrained(tmp_path)
    streamed = StreamedModel(opened(tmp_path if kind == "folder" else model), device="cpu", dtype=torch.float32)
    with torch.inference_mode(), ExitStack() as parts:
        whole = parts.enter_context(streamed.outside())
        for index in range(len(streamed.blocks)):
            parts.enter_context(streamed.block(index))
        found = whole.base_model(tokens, use_cache=False).last_hidden_state
        wanted = model.base_model(tokens, use_cache=False).last_hidden_state
    assert torch.equal(found, wanted)


def test_a_part_is_let_go_of(tiny_llama: Path) -> None:
    streamed = StreamedModel(opened(tiny_llama), device="cpu", dtype=torch.bfloat16)
    with streamed.block(1):
        held = {name for name, value in streamed.model.state_dict().items() if not value.is_meta}
    assert held and all(name.startswith("model.layers.1.") for name in held)
    with streamed.outside():
        held = {name for name, value in streamed.model.state_dict().items() if not value.is_meta}
    assert held == {"model.embed_tokens.weight", "model.norm.weight"}
    assert all(value.is_meta for value in streamed.model.state_dict().values())


def test_a_part_is_in_the_type_that_is_asked_for(tiny_llama: Path) -> None:
    streamed = StreamedModel(opened(tiny_llama), device="cpu", dtype=torch.float32)
    with streamed.block(0) as block:
        assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}


def test_experts_are_linear_layers_under_their_names_in_the_file(tmp_path: Path) -> None:
    random_model("mixtral").save_pretrained(tmp_path)
    streamed = StreamedModel(opened(tmp_path), device="cpu", dtype=torch.bfloat16)
    names = {name for name, module in streamed.blocks[0].named_modules() if type(module) is torch.nn.Linear}
    assert {"mlp.experts.0.w1", "mlp.experts.3.w2", "mlp.experts.2.w3"} <= names
