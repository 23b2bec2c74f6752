"""Gradients reach the inputs, and cost no memory of the weight's size."""

import pytest
import torch
from torch import nn

from qtoolkit.kernels import blockwise
from tests.kernels.schemes import Scheme, every_scheme, quantized, weight_of

pytestmark = pytest.mark.once

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@every_scheme
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [3, 9], ids=lambda count: f"{count} tokens")
def test_gradients_of_the_inputs(
    scheme: Scheme, dtype: torch.dtype, tokens: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_GPU", 1)
    layer = quantized(nn.Linear(48, 150), scheme)
    expected_weight = weight_of(layer)
    x = torch.randn(2, tokens, 48).to(device, dtype).requires_grad_()
    grad = torch.randn(2, tokens, 150).to(device, dtype)
    layer.to(device)(x).backward(grad)
    assert x.grad is not None
    expected = grad.cpu().double() @ expected_weight
    error = (x.grad.cpu().double() - expected).norm() / expected.norm()
    assert x.grad.dtype == dtype
    assert error < TOLERANCE[dtype]


def test_numeric_gradient() -> None:
    layer = quantized(nn.Linear(16, 6), Scheme(4, "group", 8, symmetric=False))
    x = torch.randn(3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,), atol=1e-5)


@every_scheme
def test_the_graph_holds_codes_and_no_expanded_weight(scheme: Scheme) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(9, 48, requires_grad=True))
    assert kept == []
