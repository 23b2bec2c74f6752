"""Packed 8-bit codes become int8 rows, whole or of each group: exact, as planned, and given back as they were."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.formats.gptq.tensors import GPTQTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes
from qtoolkit.kernels.int8_groups import Int8Groups
from qtoolkit.kernels.int8_rows import Int8Rows, offset_of

pytestmark = pytest.mark.once

OUT, IN = 96, 64


def layer_of(group_size: int = -1, *, symmetric: bool = True) -> tuple[QuantizedLinear, torch.Tensor]:
    """A layer of random codes that has every code, not yet packed, and its weight by the formula in float64."""
    torch.manual_seed(0)
    stored = PackedTensors(OUT, IN, bits=8, group_size=group_size, symmetric=symmetric)
    codes = torch.arange(IN * OUT).remainder(256).to(torch.uint8).view(IN, OUT)
    groups = torch.arange(IN) // stored.inputs_per_scale
    scale = (torch.rand(int(groups[-1]) + 1, OUT) - 0.5).bfloat16()
    zero = torch.full(scale.shape, 128 if symmetric else 100)
    layer = QuantizedLinear(stored, bias=False, dtype=torch.bfloat16)
    for name, tensor in stored.store(codes, scale, zero, groups).items():
        layer.register_buffer(name, tensor)
    return layer, ((codes.double() - zero[groups].double()) * scale[groups].double()).T


kinds = pytest.mark.parametrize(("group_size", "symmetric"), [(-1, True), (-1, False), (32, True), (16, False)])


@kinds
def test_rows_are_the_weight(group_size: int, symmetric: bool, older_processor: None) -> None:
    layer, weight = layer_of(group_size, symmetric=symmetric)
    packed = layer.prepare()._packed
    assert isinstance(packed, Int8Rows if group_size == -1 else Int8Groups)
    assert torch.equal(layer.dequantize().double(), weight)
    for tokens, dtype in (
        (1, torch.bfloat16),
        (8, torch.bfloat16),
        (9, torch.bfloat16),
        (3, torch.float32),
        (3, torch.float16),
    ):
        # Not about zero, so that what zero points add counts.
        x = (torch.randn(tokens, IN) + 0.5).to(dtype)
        expected = x.double() @ weight.T
        error = (layer(x).double() - expected).norm() / expected.norm()
        assert error < (1e-6 if dtype == torch.float32 else 4e-3), (tokens, dtype)


@pytest.mark.parametrize(("zero", "missing"), [(128, None), (100, 28.0), (255, -127.0)])
def test_a_zero_point_of_all_groups_is_counted_from_the_middle(zero: int, missing: float | None) -> None:
    codes: Any = SimpleNamespace(centered=False, zero_points=lambda outputs: zero, device=torch.device("cpu"))
    offset = offset_of(codes, slice(0, OUT))
    assert (None if offset is None else offset.tolist()) == (None if missing is None else [[missing]])


@pytest.mark.parametrize("group_size", [-1, 32])
@pytest.mark.parametrize("tokens", [1, 8])
def test_what_zero_points_take_away_is_no_error(group_size: int, tokens: int, older_processor: None) -> None:
    """Rows with an outlier have their codes at one end; inputs of an activation add up to much."""
    torch.manual_seed(0)
    stored = PackedTensors(OUT, IN, bits=8, group_size=group_size, symmetric=False)
    groups = torch.arange(IN) // stored.inputs_per_scale
    codes, scale = torch.randint(0, 6, (IN, OUT)).to(torch.uint8), torch.rand(int(groups[-1]) + 1, OUT).bfloat16()
    zero = torch.full(scale.shape, 2)
    layer = QuantizedLinear(stored, bias=False, dtype=torch.bfloat16)
    for name, tensor in stored.store(codes, scale, zero, groups).items():
        layer.register_buffer(name, tensor)
    weight = ((codes.double() - 2) * scale[groups].double()).T
    x = torch.zeros(tokens, IN).bfloat16()
    # Of eight tokens one alone.
    x[0] = (torch.randn(IN) + 2).bfloat16()
    assert isinstance(layer.prepare()._packed, Int8Rows if group_size == -1 else Int8Groups)
    expected = x.double() @ weight.T
    assert (layer(x).double() - expected).norm() < 4e-3 * expected.norm()
    assert layer._packed is not None and layer._packed.multiply(x) is None


@pytest.mark.parametrize("group_size", [-1, 16])
def test_vmap_goes_through_zero_points(group_size: int, older_processor: None) -> None:
    layer, weight = layer_of(group_size, symmetric=False)
    x = torch.randn(3, 2, IN).bfloat16()
    y = torch.func.vmap(layer.prepare())(x)
    torch.testing.assert_close(y.double(), x.double() @ weight.T, rtol=0.02, atol=1)


@kinds
def test_a_file_gets_the_words_that_it_had(group_size: int, symmetric: bool, older_processor: None) -> None:
    layer, _ = layer_of(group_size, symmetric=symmetric)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    after = layer.prepare().state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name][...]) for name in before)


@pytest.mark.parametrize(
    ("group_size", "names"), [(-1, ("int8_rows", "row_scales")), (32, ("int8_groups", "group_scales"))]
)
def test_memory_is_as_planned(group_size: int, names: tuple[str, str], older_processor: None) -> None:
    layer, _ = layer_of(group_size)
    planned = memory_bytes(layer.stored, device="cpu")
    assert (
        planned == OUT * IN + OUT * 2 * (1 if group_size == -1 else IN // group_size) + 16
    )  # codes, scales, the shape
    assert sum(buffer.nbytes for buffer in layer.prepare().buffers()) == planned
    # The words are not in memory besides.
    assert {name for name, _ in layer.named_buffers()} == {"weight_shape", *names}


def test_groups_in_another_order_are_those_of_the_layer(older_processor: None) -> None:
    stored = GPTQTensors(OUT, IN, bits=8, group_size=32, centered=True)
    torch.manual_seed(0)
    order = torch.randperm(IN)
    layer = QuantizedLinear(stored, bias=False, dtype=torch.bfloat16)
    layer.register_buffer("qweight", torch.randint(-(2**31), 2**31, layer.qweight.shape).int())
    layer.register_buffer("qzeros", torch.full_like(layer.qzeros, 0x7F7F7F7F))
    layer.register_buffer("scales", torch.rand(layer.scales.shape).half())
    layer.register_buffer("g_idx", (torch.arange(IN) // 32)[order].int())
    weight = layer.dequantize().double()
    assert isinstance(layer.prepare()._packed, Int8Groups)
    x = torch.randn(2, IN).bfloat16()
    torch.testing.assert_close(layer(x).double(), x.double() @ weight.T, rtol=0.02, atol=1)
    assert torch.equal(layer.dequantize().double(), weight)


@pytest.mark.parametrize("group_size", [8, 32])
def test_other_groups_are_packed_otherwise(group_size: int, newer_processor: None) -> None:
    layer, weight = layer_of(group_size)
    assert not isinstance(layer.prepare()._packed, (Int8Groups, Int8Rows))
    torch.testing.assert_close(layer.dequantize().double(), weight)
