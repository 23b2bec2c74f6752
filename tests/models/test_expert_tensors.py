"""Layers of experts that a file keeps in one tensor are read from it one at a time, with transformers' numbers."""

from pathlib import Path

import pytest
import torch

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.models.experts import find_experts, replace_experts, tensors_apart
from qtoolkit.requests import ModelSource
from tests.coded_models import WEIGHTS, gpt_oss, store_as_mxfp4
from tests.models.test_experts import other


@pytest.mark.parametrize("kind", ["gpt_oss", "granitemoe", "dbrx", "jetmoe", "llama4_text"])
@pytest.mark.parametrize("source", ["file", "memory"])
def test_each_is_what_the_replaced_model_has(kind: str, source: str, tmp_path: Path) -> None:
    model = other(kind)
    if source == "file":
        model.save_pretrained(tmp_path)
        tensors = read_tensors(tmp_path / WEIGHTS)
    else:
        tensors = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    apart = tensors_apart(model, tensors, find_experts(model))
    replace_experts(model)
    expected = model.state_dict()
    layers = [name for name in apart if name not in tensors]
    assert set(layers) == {name for name in expected if name not in tensors and name in layers}
    assert not [name for name in expected if name not in apart and ".experts." in name and name.endswith("weight")]
    for name in layers:
        assert tuple(apart[name].shape) == tuple(expected[name].shape)
        assert torch.equal(apart[name][...], expected[name])


def test_mxfp4_is_expanded_one_expert_at_a_time(tmp_path: Path) -> None:
    model = gpt_oss()
    checkpoint = open_source(store_as_mxfp4(model, tmp_path), ModelSource(), quantized=False)
    name = "model.layers.1.mlp.experts"
    whole = checkpoint.tensors[f"{name}.gate_up_proj"]
    apart = tensors_apart(model, checkpoint.tensors, find_experts(model))
    # [experts, in, out]: gate and up take one output in turn.
    wanted = whole[...][2].T
    assert torch.equal(apart[f"{name}.2.gate_proj.weight"][...], wanted[0::2])
    assert torch.equal(apart[f"{name}.2.up_proj.weight"][...], wanted[1::2])
    assert apart[f"{name}.2.up_proj.weight"].working_bytes == whole.nbytes // 4 + whole.working_bytes
