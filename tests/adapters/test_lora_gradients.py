"""LoRA on a layer of codes trains as LoRA on a linear layer with the same weight: peft's own layer is the reference."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from qtoolkit.adapters.lora_layers import QuantizedLoraLinear
from qtoolkit.kernels import QuantizedLinear
from tests.kernels import gptq_layers, schemes

LAYERS: dict[str, Callable[[], tuple[QuantizedLinear, torch.Tensor]]] = {
    **{
        str(kind): lambda kind=kind: (gptq_layers.gptq_layer(kind), gptq_layers.weight_of(kind))
        for kind in gptq_layers.KINDS
    },
    **{schemes.name_of(scheme): lambda scheme=scheme: native_layer(scheme) for scheme in schemes.SCHEMES},
}


def native_layer(scheme: schemes.Scheme) -> tuple[QuantizedLinear, torch.Tensor]:
    torch.manual_seed(0)
    layer = schemes.quantized(nn.Linear(64, 32), scheme)
    return layer, schemes.weight_of(layer)


def adapted(layer: nn.Module, **options: Any) -> nn.Module:
    """A model of one layer, with an adapter whose B is not zero."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **options)
    model = get_peft_model(_Model(layer), config)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            parameter.data.normal_(std=0.02)
    return model


class _Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        # peft asks a model's first parameter for the device.
        self.norm = nn.RMSNorm(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        return y


def trained(model: nn.Module, in_features: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The gradients of one step by name, that of the inputs among them, and the outputs."""
    torch.manual_seed(3)
    x = torch.randn(5, in_features, requires_grad=True)
    y = model(x)
    y.backward(torch.randn(y.shape))
    assert x.grad is not None
    grads = {name: one.grad for name, one in model.named_parameters() if one.requires_grad and one.grad is not None}
    return {**grads, "x": x.grad}, y.detach()


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_dequantized_layer(name: str) -> None:
    layer, weight = LAYERS[name]()
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.weight.data, plain.bias.data = weight.float(), copy.deepcopy(layer.bias)
    expected, y_expected = trained(adapted(plain), layer.in_features)
    model = adapted(layer.prepare())
    assert isinstance(model.base_model.model.layer, QuantizedLoraLinear)
    found, y = trained(model, layer.in_features)
    assert set(found) == set(expected) and len(found) == 3
    assert (y - y_expected).norm() < 1e-5 * y_expected.norm()
    for key, grad in expected.items():
        assert (found[key] - grad).norm() < 1e-5 * grad.norm(), key


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}], ids=["dora", "rslora"])
def test_variants_are_those_of_the_dequantized_layer(options: dict[str, bool]) -> None:
    layer, weight = LAYERS["4 bits gptq sym plain 128x128 g32"]()
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.weight.data, plain.bias.data = weight.float(), copy.deepcopy(layer.bias)
    expected, y_expected = trained(adapted(plain, **options), layer.in_features)
    found, y = trained(adapted(layer.prepare(), **options), layer.in_features)
    assert set(found) == set(expected)
    assert (y - y_expected).norm() < 1e-5 * y_expected.norm()
    assert all((found[key] - grad).norm() < 1e-5 * grad.norm() for key, grad in expected.items())
