"""Packed 8-bit codes with one scale an output become int8 rows: exact, as planned, and given back as they were."""

import pytest
import torch

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes
from qtoolkit.kernels.int8_rows import Int8Rows

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


def test_rows_are_the_weight() -> None:
    layer, weight = layer_of()
    packed = layer.prepare()._packed
    assert isinstance(packed, Int8Rows)
    assert torch.equal(layer.dequantize().double(), weight)
    for tokens, dtype in ((1, torch.bfloat16), (32, torch.bfloat16), (3, torch.float32), (3, torch.float16)):
        x = torch.randn(tokens, IN, dtype=dtype)
        expected = x.double() @ weight.T
        error = (layer(x).double() - expected).norm() / expected.norm()
        assert error < (1e-6 if dtype == torch.float32 else 5e-3), (tokens, dtype)


def test_a_file_gets_the_words_that_it_had() -> None:
    layer, _ = layer_of()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    after = layer.prepare().state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name][...]) for name in before)


def test_memory_is_as_planned() -> None:
    layer, _ = layer_of()
    planned = memory_bytes(layer.stored, device="cpu")
    assert planned == OUT * IN + OUT * 2 + 16  # codes, scales, the shape
    assert sum(buffer.nbytes for buffer in layer.prepare().buffers()) == planned
    # The words are not in memory besides.
    assert {name for name, _ in layer.named_buffers()} == {"weight_shape", "int8_rows", "row_scales"}


@pytest.mark.parametrize(("group_size", "symmetric"), [(32, True), (-1, False)])
def test_other_codes_are_packed_otherwise(group_size: int, symmetric: bool) -> None:
    layer, weight = layer_of(group_size, symmetric=symmetric)
    assert not isinstance(layer.prepare()._packed, Int8Rows)
    torch.testing.assert_close(layer.dequantize().double(), weight)
