"""What the tensors of a GPTQ checkpoint stand for, and the room they take."""

import pytest
import torch

from qtoolkit.measure import memory_footprint
from qtoolkit.modules import GPTQLinear
from tests.modules.gptq_layers import IN, OUT, Kind, every_kernel_kind, every_kind, gptq_layer, weight_of


@every_kind
def test_dequantized_as_the_bits_say(kind: Kind) -> None:
    layer = gptq_layer(kind)
    weight = layer.dequantize()
    assert weight.dtype == torch.float32
    assert torch.equal(weight.double(), weight_of(kind))


@every_kind
def test_the_layout_of_the_kernel_stands_for_the_same_weight(kind: Kind) -> None:
    layer = gptq_layer(kind)
    expected = layer.dequantize()
    assert torch.equal(layer.prepare().dequantize(), expected)


@every_kind
def test_stored_bytes_are_those_of_the_checkpoint(kind: Kind) -> None:
    layer = gptq_layer(kind, bias=False)
    predicted = GPTQLinear.stored_bytes(layer.out_features, layer.in_features, kind.bits, kind.group_size)
    assert predicted == sum(tensor.nbytes for tensor in layer.state_dict().values())


@every_kind
def test_memory_bytes_are_those_of_the_prepared_layer(kind: Kind) -> None:
    if kind.order == "uneven":
        pytest.skip("no kernel takes it, which shapes do not tell")
    layer = gptq_layer(kind, bias=False).prepare()
    predicted = GPTQLinear.memory_bytes(
        layer.out_features,
        layer.in_features,
        kind.bits,
        kind.group_size,
        sym=kind.sym,
        desc_act=kind.order == "act",
        device="cpu",
    )
    assert predicted == memory_footprint(layer)
    assert predicted >= sum(buffer.nbytes for buffer in layer.buffers())


@pytest.mark.parametrize(("group_size", "most"), [(32, 1.06), (64, 1.03), (128, 1.02)])
def test_four_bits_take_hardly_more_room_prepared(group_size: int, most: float) -> None:
    kind = Kind(4, group_size=group_size, in_features=1024, out_features=1024)
    layer = gptq_layer(kind, bias=False)
    stored = memory_footprint(layer)
    assert stored < memory_footprint(layer.prepare()) <= most * stored


@every_kernel_kind
def test_prepared_it_keeps_no_second_copy(kind: Kind) -> None:
    layer = gptq_layer(kind).prepare()
    assert layer.qweight is None
    assert layer.scales is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "bits must be one of 2, 3, 4, 8, got 5"),
        ({"bits": 3, "in_features": 48}, "codes of 3 bits must fill words of 32, got 48 inputs and 128 outputs"),
        ({"group_size": 0}, "group_size must be -1 or at least 1, got 0"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format must be one of gptq, gptq_v2, got 'marlin'"),
    ],
    ids=["bits", "words", "group size", "format"],
)
def test_layers_that_there_are_not(changes: dict[str, object], message: str) -> None:
    options = {"in_features": IN, "out_features": OUT, "bias": False, "bits": 4, "group_size": 32} | changes
    with pytest.raises(ValueError, match=f"^{message}$"):
        GPTQLinear(**options)  # type: ignore[arg-type]
