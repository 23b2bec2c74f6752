"""Products with codes against float64, for every scheme and type, on each device."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtoolkit.kernels import Codes, QuantizedLinear, blockwise
from qtoolkit.tensor import processor
from tests.kernels.schemes import Scheme, every_scheme, quantized, weight_of

pytestmark = pytest.mark.once

# Relative error of a product: rounding of the inputs' type, in the outputs and at most once in the weights.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# On CPU, up to 8 tokens take another way than more.
few_and_many = pytest.mark.parametrize("tokens", [1, 8, 9], ids=lambda count: f"{count} tokens")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().double() - expected).norm() / expected.norm())


def codes_of(layer: QuantizedLinear) -> Codes:
    return layer.stored.decode(dict(layer.named_buffers()))


def multiply(x: torch.Tensor, layer: QuantizedLinear, dtype: torch.dtype) -> torch.Tensor:
    return blockwise.multiply_blocks(x, codes_of(layer), dtype)


@every_scheme
@every_dtype
@few_and_many
def test_outputs_are_those_of_the_stored_weight(
    scheme: Scheme, dtype: torch.dtype, tokens: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 64 outputs, so that 150 are two whole ones and a rest.
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_GPU", 1)
    torch.manual_seed(0)
    layer = quantized(nn.Linear(48, 150), scheme)
    x = torch.randn(tokens, 48).to(dtype)
    expected = x.double() @ weight_of(layer).T + layer.bias.double()
    y = layer.to(device)(x.to(device))
    assert (y.dtype, y.device.type) == (dtype, device)
    assert relative_error(y, expected) < TOLERANCE[dtype]


@every_scheme
def test_the_products_of_a_gpu_in_float16(scheme: Scheme) -> None:
    """On CPU the layer multiplies float16 in float32; here is the other way, asked for directly."""
    layer = quantized(nn.Linear(48, 24, bias=False), scheme)
    x = torch.randn(9, 48).half()
    y = multiply(x, layer, torch.float16)
    assert relative_error(y, x.double() @ weight_of(layer).T) < TOLERANCE[torch.float16]
    back = blockwise.multiply_transposed(y, codes_of(layer), torch.float16)
    assert relative_error(back, y.double() @ weight_of(layer)) < TOLERANCE[torch.float16]


@every_scheme
def test_float16_overflows_no_sooner_than_the_dense_layer(scheme: Scheme) -> None:
    # Codes are up to 127, so a sum of 64 products of whole codes with 100 would be 812,800: above 65504.
    linear = nn.Linear(64, 2, bias=False)
    linear.weight.data.fill_(0.5)
    layer = quantized(linear, scheme)
    x = torch.full((9, 64), 100.0).half()
    expected = x.double() @ weight_of(layer).T
    for y in (layer(x), multiply(x, layer, torch.float16)):
        assert relative_error(y, expected) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("in_features", [16, 30, 100, 112], ids=lambda count: f"{count} inputs")
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_of_any_length_in_bfloat16(in_features: int, bits: int) -> None:
    """torch's bfloat16 x int8 kernel crashes the process where a row is no multiple of 16."""
    layer = quantized(nn.Linear(in_features, 7), Scheme(bits, "channel", -1, symmetric=True))
    x = torch.randn(3, in_features).bfloat16()
    expected = x.double() @ weight_of(layer).T + layer.bias.double()
    assert relative_error(layer(x), expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize(
    "shape", [(48,), (0, 48), (1, 48), (2, 0, 48), (2, 3, 48), (2, 3, 4, 48)], ids=lambda shape: str(list(shape))
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_leading_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    linear = nn.Linear(48, 24)
    layer = quantized(linear, Scheme(8, "channel", -1, symmetric=True))
    x = torch.randn(shape).to(dtype)
    y = layer(x)
    assert y.shape == (*shape[:-1], 24)
    if y.numel():
        assert relative_error(y, x.double() @ weight_of(layer).T + layer.bias.double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_with_strides(dtype: torch.dtype) -> None:
    layer = quantized(nn.Linear(48, 24), Scheme(8, "tensor", -1, symmetric=True))
    x = torch.randn(48, 5).to(dtype).T
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("in_features", [32, 96], ids=lambda count: f"{count} inputs")
def test_inputs_of_another_size_are_refused(tokens: int, in_features: int) -> None:
    layer = quantized(nn.Linear(48, 24), Scheme(8, "channel", -1, symmetric=True))
    for dtype in TOLERANCE:
        with pytest.raises(RuntimeError, match=r"shape|size"):
            layer(torch.zeros(tokens, in_features, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@few_and_many
def test_autocast_decides_the_type_as_for_a_dense_layer(dtype: torch.dtype, tokens: int) -> None:
    linear = nn.Linear(48, 24)
    layer = quantized(linear, Scheme(8, "channel", -1, symmetric=True))
    x = torch.randn(tokens, 48)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        assert y.dtype == linear(x).dtype == dtype
    assert torch.equal(y, layer(x.to(dtype)))


@every_scheme
def test_many_tokens_of_a_slow_type_are_multiplied_in_float32(scheme: Scheme, each_processor: None) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    x = torch.randn(9, 48).bfloat16()
    with torch.no_grad(), _Types() as seen:
        y = layer(x)
    assert seen.products == {torch.bfloat16 if processor.bfloat16_is_fast() else torch.float32}
    expected = x.double() @ weight_of(layer).T + layer.bias.double()
    assert relative_error(y, expected) < TOLERANCE[torch.bfloat16]


class _Types(TorchDispatchMode):
    """Sees the types in which matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm"):
            self.products.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


@every_scheme
def test_no_large_temporary_outlives_its_block(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of more numbers than a block holds is integer: the full-precision weight is never whole."""
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    layer = quantized(nn.Linear(96, 640, bias=False), scheme)
    largest = _LargestFloat()
    with torch.no_grad(), largest:
        layer(torch.randn(9, 96))
    assert largest.numel == 64 * 96


class _LargestFloat(TorchDispatchMode):
    """Watches every operation of torch for the size of the largest tensor of floats that it makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.numel = max(self.numel, result.numel())
        return result
