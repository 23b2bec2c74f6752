"""What the tensors of an AWQ checkpoint stand for, and the room they take."""

import pytest
import torch

from qtoolkit.formats.awq.tensors import AWQTensors, pack_outputs, unpack_outputs
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes
from qtoolkit.measure.footprint import memory_footprint
from tests.formats.awq.awq_files import packed_by_the_formula

KINDS = [
    AWQTensors(64, 128, group_size=32),
    AWQTensors(64, 128, group_size=-1),
    AWQTensors(128, 256, group_size=128, scale_dtype=torch.bfloat16),
    AWQTensors(24, 48, group_size=16, scale_dtype=torch.float32),
]
every_kind = pytest.mark.parametrize("stored", KINDS, ids=lambda one: f"{one} {one.scale_dtype}")
Drawn = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def drawn(stored: AWQTensors) -> Drawn:
    """Any codes uint8 [in, out], scales of both signs and zero points [groups, out], all values from 0 to 15."""
    torch.manual_seed(0)
    shape = stored.in_features // stored.inputs_per_scale, stored.out_features
    codes = torch.randint(16, (stored.in_features, stored.out_features), dtype=torch.uint8)
    zero_points = torch.randint(16, shape, dtype=torch.uint8)
    zero_points[0, :2] = torch.tensor([0, 15])
    return codes, (torch.randn(shape) * 0.01).bfloat16().to(stored.scale_dtype), zero_points


def stored_by_us(stored: AWQTensors) -> dict[str, torch.Tensor]:
    codes, scale, zero_points = drawn(stored)
    return stored.store(codes, scale, zero_points, torch.arange(len(codes)) // stored.inputs_per_scale)


def layer_of(stored: AWQTensors) -> QuantizedLinear:
    layer = QuantizedLinear(stored, bias=False)
    for name, tensor in stored_by_us(stored).items():
        layer.get_buffer(name).copy_(tensor)
    return layer


@every_kind
def test_words_are_those_of_the_published_formula(stored: AWQTensors) -> None:
    codes, scale, zero_points = drawn(stored)
    tensors = stored_by_us(stored)
    assert torch.equal(tensors["qweight"], packed_by_the_formula(codes))
    assert torch.equal(tensors["qzeros"], packed_by_the_formula(zero_points))
    assert torch.equal(tensors["scales"], scale.to(stored.scale_dtype))
    assert {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()} == stored.tensors()


@every_kind
def test_the_weight_is_exact(stored: AWQTensors) -> None:
    codes, scale, zero_points = drawn(stored)
    size = stored.inputs_per_scale
    steps = codes.double() - zero_points.double().repeat_interleave(size, 0)
    expected = (steps * scale.double().repeat_interleave(size, 0)).T
    assert torch.equal(layer_of(stored).dequantize(), expected.float())


@every_kind
def test_packed_for_a_kernel_it_is_the_same(stored: AWQTensors) -> None:
    layer = layer_of(stored)
    weight, before = layer.dequantize(), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert stored_bytes(stored) == sum(tensor.nbytes for tensor in before.values())
    assert torch.equal(layer.prepare().dequantize(), weight)
    assert memory_bytes(stored, device="cpu") == memory_footprint(layer)
    after = layer.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    x = torch.randn(3, stored.in_features).bfloat16()
    expected = x.double() @ weight.double().T
    assert (layer(x).double() - expected).norm() <= 0.005 * expected.norm()


@pytest.mark.parametrize("outputs", [slice(0, 8), slice(8, 24), slice(3, 13), slice(40, 64), slice(None)], ids=str)
def test_some_outputs_are_those_of_all(outputs: slice) -> None:
    codes = torch.randint(16, (5, 64), dtype=torch.uint8)
    assert torch.equal(unpack_outputs(pack_outputs(codes), outputs), codes[:, outputs])


@pytest.mark.parametrize(("low", "high"), [(0, 16), (-1, 15)])
def test_zero_points_outside_the_codes(low: int, high: int) -> None:
    stored = KINDS[0]
    codes, scale, zero_points = drawn(stored)
    outside = zero_points.to(torch.int32)
    outside[0, 0], outside[0, 1] = low, high
    with pytest.raises(ValueError, match=f"zero points must be 0 to 15, got {low} to {high}"):
        stored.store(codes, scale, outside, torch.arange(128) // 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"out_features": 60}, "outputs must fill words of 8 codes, got 60"),
        ({"group_size": 48}, "group_size must be -1 or divide 128 inputs, got 48"),
        ({"group_size": 0}, "group_size must be -1 or divide 128 inputs, got 0"),
    ],
)
def test_layers_that_there_are_not(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stored_bytes(AWQTensors(**{"out_features": 64, "in_features": 128, "group_size": 32} | changes))
