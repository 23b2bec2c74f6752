"""An evaluation changes no later step of training, of no method: outputs, gradients and what is saved are the same."""

import copy

import pytest
import torch
from torch import nn

import qtoolkit as qt
from tests.sample_models import random_model

METHODS = {
    "absmax": qt.AbsMax(bits=4, granularity="group", group_size=32),
    "zero-point": qt.ZeroPoint(bits=8),
    "FP8": qt.FP8(),
    "W8A8": qt.W8A8(),
    "int8": qt.Int8(threshold=2.0),
    "NF4": qt.NF4(),
}


def step(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The outputs of a step of training, and the gradients of the inputs."""
    inputs = x.clone().requires_grad_()
    y = layer.train()(inputs)
    y.backward(x[..., : y.shape[-1]])
    assert inputs.grad is not None
    return y.detach(), inputs.grad


@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("name", METHODS)
def test_an_evaluation_changes_no_later_step(name: str) -> None:
    model = qt.quantize(random_model("llama", dtype=torch.float32), METHODS[name], device="cpu").model
    layer = model.get_submodule("model.layers.0.self_attn.k_proj").eval()
    # An input beyond int8's threshold is multiplied apart, in an evaluation alone.
    x = torch.randn(2, 3, layer.in_features)
    x[..., 5] *= 10
    untouched = copy.deepcopy(layer)
    with torch.no_grad():
        evaluated = layer(x)
    for found, expected in zip(step(layer, x), step(untouched, x), strict=True):
        assert torch.equal(found, expected)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), evaluated)
    state, before = layer.state_dict(), untouched.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)
