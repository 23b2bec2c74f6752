"""What the tensors of a GPTQ checkpoint stand for, and the room they take."""

import pytest
import torch

from qtoolkit.formats.gptq.tensors import GPTQTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes, tinygemm
from qtoolkit.measure.footprint import memory_footprint
from tests.kernels.gptq_layers import IN, OUT, Kind, every_kernel_kind, every_kind, gptq_layer, tensors_of, weight_of

pytestmark = pytest.mark.once


@every_kind
def test_dequantized_as_the_bits_say(kind: Kind) -> None:
    layer = gptq_layer(kind)
    weight = layer.dequantize()
    assert weight.dtype == torch.float32
    assert torch.equal(weight.double(), weight_of(kind))


@every_kind
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "no kernel"])
def test_prepared_it_stands_for_the_same_weight(kind: Kind, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels:
        monkeypatch.setattr(tinygemm, "_GROUP_SIZES", ())
    layer = gptq_layer(kind)
    expected, before = layer.dequantize(), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert torch.equal(layer.prepare().dequantize(), expected)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@every_kind
def test_stored_bytes_are_those_of_the_checkpoint(kind: Kind) -> None:
    layer = gptq_layer(kind, bias=False)
    predicted = stored_bytes(tensors_of(kind))
    assert predicted == sum(tensor.nbytes for tensor in layer.state_dict().values())


@every_kind
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "no kernel"])
def test_memory_bytes_are_those_of_the_prepared_layer(
    kind: Kind, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.order == "uneven":
        pytest.skip("no layout takes it, which shapes do not tell")
    if not kernels:
        monkeypatch.setattr(tinygemm, "_GROUP_SIZES", ())
    layer = gptq_layer(kind, bias=False).prepare()
    predicted = memory_bytes(tensors_of(kind), device="cpu", reordered=kind.order == "act")
    assert predicted == memory_footprint(layer)
    assert predicted >= sum(buffer.nbytes for buffer in layer.buffers())


@pytest.mark.parametrize(
    ("bits", "group_size", "most"), [(4, 32, 1.06), (4, 64, 1.03), (4, 128, 1.02), (8, 64, 1.08), (8, 128, 1.04)]
)
def test_the_kernels_take_hardly_more_room(bits: int, group_size: int, most: float) -> None:
    kind = Kind(bits, group_size=group_size, in_features=1024, out_features=1024)
    layer = gptq_layer(kind, bias=False)
    stored = memory_footprint(layer)
    assert stored < memory_footprint(layer.prepare()) <= most * stored


@every_kernel_kind
def test_prepared_it_keeps_no_second_copy(kind: Kind) -> None:
    layer = gptq_layer(kind).prepare()
    assert layer.qweight is None
    assert layer.scales is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_of_other_types(bits: int, dtype: torch.dtype) -> None:
    """auto-gptq stores them in the type of the model that was quantized."""
    layer = QuantizedLinear(tensors_of(Kind(bits), scale_dtype=dtype), bias=False)
    for name, tensor in gptq_layer(Kind(bits), bias=False).state_dict().items():
        setattr(layer, name, tensor)
    layer.scales = torch.randn(layer.scales.shape).to(dtype)
    scales, expected = layer.scales, layer.dequantize()
    assert torch.equal(layer.prepare().to(torch.float16).dequantize(), expected)
    assert layer.qweight is None
    assert torch.equal(layer.state_dict()["scales"], scales)


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
    options = {"in_features": IN, "out_features": OUT, "bits": 4, "group_size": 32} | changes
    with pytest.raises(ValueError, match=f"^{message}$"):
        QuantizedLinear(GPTQTensors(**options), bias=False)  # type: ignore[arg-type]
