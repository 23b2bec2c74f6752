"""A 4-bit layer hands gradients back to what is before it, also after it was asked without any."""

import copy

import pytest
import torch
from torch import nn

from qtoolkit.formats.bitsandbytes import keep_exact

bnb = pytest.importorskip("bitsandbytes")


@pytest.mark.parametrize("double_quant", [True, False], ids=["double quantization", "single"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_an_evaluation_before_training_changes_no_gradient(quant_type: str, double_quant: bool) -> None:
    """As a plain product with the expanded weight has them; where bitsandbytes packs weights, this fails without us."""
    torch.manual_seed(0)
    options = {"compute_dtype": torch.float32, "compress_statistics": double_quant, "quant_type": quant_type}
    layer = bnb.nn.Linear4bit(128, 64, bias=False, **options).to("cpu")
    keep_exact(nn.Sequential(layer).eval())
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    before = {name: tensor.clone() for name, tensor in copy.deepcopy(layer).state_dict().items()}
    with torch.no_grad():
        layer(torch.randn(3, 5, 128))
    inputs, gradient = torch.randn(3, 5, 128, requires_grad=True), torch.randn(3, 5, 64)
    for _ in range(2):
        inputs.grad = None
        outputs = layer(inputs)
        torch.testing.assert_close(outputs, inputs @ weight.T)
        outputs.backward(gradient)
        torch.testing.assert_close(inputs.grad, gradient @ weight)
        with torch.no_grad():
            layer(inputs.detach())
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
