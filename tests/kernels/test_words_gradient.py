"""Gradients of the inputs; the layer itself is not trained."""

import pytest
import torch

from qtoolkit.kernels import blockwise
from tests.kernels.gptq_layers import IN, Kind, every_kind, gptq_layer, weight_of

pytestmark = pytest.mark.once

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 8e-3}


@every_kind
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_of_the_inputs(kind: Kind, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_GPU", 1)
    layer = gptq_layer(kind)
    weight = weight_of(kind)
    layer.to(device).prepare()
    x = torch.randn(2, 3, layer.in_features).to(device, dtype).requires_grad_()
    grad = torch.randn(2, 3, layer.out_features).to(device, dtype)
    y = layer(x)
    y.backward(grad)
    assert x.grad is not None
    expected = grad.cpu().double() @ weight
    error = (x.grad.cpu().double() - expected).norm() / expected.norm()
    assert x.grad.dtype == dtype
    assert error < TOLERANCE[dtype]
    # With and without gradients the outputs are the same.
    assert torch.equal(y.detach(), layer(x.detach()))


@pytest.mark.parametrize("order", ["plain", "act"])
def test_numeric_gradient(order: str) -> None:
    layer = gptq_layer(Kind(4, order=order, in_features=64, out_features=64)).prepare()
    x = torch.randn(1, 64, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,), atol=1e-5)


def test_nothing_is_kept_for_the_gradient() -> None:
    layer = gptq_layer(Kind(4), bias=False).prepare()
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(9, IN, requires_grad=True))
    assert not kept
    assert not list(layer.parameters())
