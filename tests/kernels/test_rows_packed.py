"""4-bit codes in rows take the 4-bit kernel, 8-bit ones the int8 kernel; their files stay."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes, tinygemm
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.tensor.lazy import LazyState
from tests.kernels.schemes import Scheme, name_of, quantized, weight_of

pytestmark = pytest.mark.once

INT4, INT8 = "aten::_weight_int4pack_mm_for_cpu", "aten::_weight_int8pack_mm"
# Relative error of a product: rounding of the inputs' type, and of scales and offsets in the kernels.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 8e-3}
SCHEMES = [
    Scheme(bits, granularity, group_size, symmetric)
    for bits in (8, 4)
    for granularity, group_size in (("tensor", -1), ("channel", -1), ("group", 32), ("group", 96))
    for symmetric in (True, False)
]
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{name_of(scheme)} {scheme.group_size}")
IN, OUT = 192, 128


def layer_of(scheme: Scheme, *, bias: bool = True) -> QuantizedLinear:
    torch.manual_seed(0)
    return quantized(nn.Linear(IN, OUT, bias=bias), scheme)


@every_scheme
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "no kernel"])
def test_outputs_are_those_of_the_stored_weight(
    scheme: Scheme, dtype: torch.dtype, kernels: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(tinygemm, "_GROUP_SIZES", ())
    layer = layer_of(scheme)
    weight, bias = weight_of(layer), layer.bias.double()
    layer.to(device).prepare()
    for tokens in (1, 9, 64, 65):
        x = torch.randn(tokens, IN).to(dtype)
        y, expected = layer(x.to(device)), x.double() @ weight.T + bias
        assert (y.dtype, y.device.type) == (dtype, device)
        assert (y.cpu().double() - expected).norm() / expected.norm() < TOLERANCE[dtype]


@every_scheme
@pytest.mark.parametrize("tokens", [1, 8])
def test_few_tokens_take_the_kernel_of_their_codes(scheme: Scheme, tokens: int) -> None:
    layer, called = layer_of(scheme).prepare(), _Called()
    with torch.no_grad(), called:
        layer(torch.randn(tokens, IN).bfloat16())
    assert called.names & {INT4, INT8} == {INT4 if scheme.bits == 4 else INT8}


@every_scheme
def test_the_state_is_what_was_loaded(scheme: Scheme) -> None:
    layer = layer_of(scheme)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    weight = layer.dequantize()
    twins = [layer.prepare(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]  # noqa: S301
    for twin in twins:
        for state in (twin.state_dict(), twin.state_dict(destination=LazyState())):
            assert list(state) == list(before)
            for name, tensor in state.items():
                assert (tensor.shape, tensor.dtype) == (before[name].shape, before[name].dtype)
                assert torch.equal(tensor[...], before[name])
                assert tensor[...].is_contiguous()
        assert torch.equal(twin.dequantize(), weight)
        assert torch.equal(twin.to(torch.bfloat16).float().dequantize(), weight)


@every_scheme
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "no kernel"])
def test_memory_bytes_are_those_of_the_prepared_layer(
    scheme: Scheme, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(tinygemm, "_GROUP_SIZES", ())
    layer = layer_of(scheme, bias=False).prepare()
    predicted = memory_bytes(scheme.tensors(OUT, IN), device="cpu")
    assert predicted == memory_footprint(layer)
    if not (kernels and scheme.bits == 4):
        assert predicted == stored_bytes(scheme.tensors(OUT, IN))


@every_scheme
def test_gradients_are_those_of_the_stored_weight(scheme: Scheme) -> None:
    layer = layer_of(scheme)
    weight = weight_of(layer)
    x = torch.randn(5, IN, requires_grad=True)
    grad = torch.randn(5, OUT)
    layer.prepare()(x).backward(grad)
    assert x.grad is not None
    expected = grad.double() @ weight
    assert (x.grad.double() - expected).norm() / expected.norm() < 1e-6


class _Called(TorchDispatchMode):
    """Watches which operations of torch run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))
