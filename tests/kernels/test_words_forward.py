"""Products of GPTQ layers against float64: every kind, type and number of tokens, on each device."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qtoolkit.kernels import blockwise, tinygemm
from tests.kernels.gptq_layers import IN, OUT, Kind, every_kernel_kind, every_kind, gptq_layer, weight_of

pytestmark = pytest.mark.once

# Relative error of a product: rounding of the inputs' type, and of the scales in the kernel.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 8e-3}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
SIMPLE = Kind(4)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().double() - expected).norm() / expected.norm())


@every_kind
@every_dtype
@pytest.mark.parametrize("form", ["prepared", "prepared without a kernel", "as stored"])
def test_outputs_are_those_of_the_stored_weight(
    kind: Kind, dtype: torch.dtype, form: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 64 outputs, so that there are several.
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_GPU", 1)
    layer = gptq_layer(kind)
    weight, bias = weight_of(kind), layer.bias.double()
    layer.to(device)
    if form == "prepared without a kernel":
        monkeypatch.setattr(tinygemm, "_GROUP_SIZES", ())
    if form != "as stored":
        layer.prepare()
    # On both sides of where the kernel ends.
    for tokens in (1, 32, 33, 64, 65):
        x = torch.randn(tokens, layer.in_features).to(dtype)
        y = layer(x.to(device))
        assert (y.dtype, y.device.type) == (dtype, device)
        assert relative_error(y, x.double() @ weight.T + bias) < TOLERANCE[dtype]


@every_kernel_kind
@pytest.mark.parametrize(
    ("dtype", "tokens", "expected"),
    [
        (torch.bfloat16, 1, True),
        (torch.float16, 32, True),
        (torch.bfloat16, 65, False),
        (torch.float32, 1, False),
    ],
    ids=["one", "32 in float16", "65", "one in float32"],
)
def test_the_kernel_serves_few_tokens_in_16_bits(
    kind: Kind, dtype: torch.dtype, tokens: int, expected: bool, newer_processor: None
) -> None:
    layer = gptq_layer(kind).prepare()
    called = _Called()
    with torch.no_grad(), called:
        layer(torch.randn(tokens, layer.in_features, dtype=dtype))
    assert ("aten::_weight_int4pack_mm_for_cpu" in called.names) == expected


@pytest.mark.parametrize("sym", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize(("bits", "most"), [(4, 1.5), (8, 1.9)])
def test_the_kernel_is_hardly_further_off_than_rounding_the_outputs(bits: int, most: float, sym: bool) -> None:
    layer = gptq_layer(Kind(bits, sym=sym, group_size=64, in_features=1024, out_features=1024), bias=False)
    x = torch.randn(32, 1024).bfloat16()
    expected = x.double() @ layer.dequantize().double().T
    rounding = relative_error(expected.bfloat16(), expected)
    assert relative_error(layer.prepare()(x), expected) < most * rounding


@pytest.mark.parametrize(
    "shape", [(IN,), (0, IN), (1, IN), (2, 0, IN), (2, 3, IN), (2, 3, 4, IN)], ids=lambda shape: str(list(shape))
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_any_leading_shape(shape: tuple[int, ...], dtype: torch.dtype, bits: int) -> None:
    kind = Kind(bits)
    layer = gptq_layer(kind).prepare()
    x = torch.randn(shape).to(dtype)
    y = layer(x)
    assert y.shape == (*shape[:-1], OUT)
    if y.numel():
        assert relative_error(y, x.double() @ weight_of(kind).T + layer.bias.double()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ["plain", "act"])
def test_inputs_with_strides(dtype: torch.dtype, order: str) -> None:
    layer = gptq_layer(Kind(4, order=order)).prepare()
    x = torch.randn(IN, 5).to(dtype).T
    assert torch.equal(layer(x), layer(x.contiguous()))


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "as stored"])
@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize("in_features", [IN // 2, 2 * IN], ids=lambda count: f"{count} inputs")
@pytest.mark.parametrize("order", ["plain", "act"])
def test_inputs_of_another_size_are_refused(order: str, in_features: int, tokens: int, prepared: bool) -> None:
    layer = gptq_layer(Kind(4, order=order))
    if prepared:
        layer.prepare()
    for dtype in TOLERANCE:
        with pytest.raises(RuntimeError, match=r"shape|size"):
            layer(torch.zeros(tokens, in_features, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 70])
def test_autocast_decides_the_type_as_for_a_dense_layer(dtype: torch.dtype, tokens: int) -> None:
    layer = gptq_layer(SIMPLE).prepare()
    x = torch.randn(tokens, IN)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        assert y.dtype == nn.Linear(IN, OUT)(x).dtype == dtype
    assert torch.equal(y, layer(x.to(dtype)))


@every_kind
def test_no_large_temporary_outlives_its_block(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full-precision weight is never whole: no tensor of floats is larger than a block of 64 outputs."""
    monkeypatch.setattr(blockwise, "BLOCK_WEIGHTS_CPU", 1)
    layer = gptq_layer(kind, bias=False).prepare()
    called = _Called()
    with torch.no_grad(), called:
        layer(torch.randn(9, layer.in_features))
    assert 64 * layer.in_features <= called.largest <= 64 * layer.in_features


@every_kind
def test_a_skeleton_tells_shapes(kind: Kind) -> None:
    layer = gptq_layer(kind).to("meta").prepare()
    y = layer(torch.empty(2, 5, layer.in_features, device="meta", dtype=torch.bfloat16))
    assert (y.shape, y.dtype) == ((2, 5, layer.out_features), torch.bfloat16)


class _Called(TorchDispatchMode):
    """Watches which operations of torch run, and how many numbers the largest tensor of floats has."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func._schema.name)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.largest = max(self.largest, result.numel())
        return result
