"""What a layer keeps: types, shapes, bytes, and how close it is to the weight."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import QuantizedLinear, stored_bytes
from tests.kernels.schemes import Scheme, every_scheme, quantized, weight_of

OUT, IN = 24, 48


@every_scheme
def test_stored_bytes_are_those_of_the_buffers(scheme: Scheme) -> None:
    layer = quantized(nn.Linear(IN, OUT, bias=False), scheme)
    expected = sum(buffer.nbytes for buffer in layer.buffers())
    assert stored_bytes(scheme.tensors(OUT, IN)) == expected
    # By hand: half a byte or one per weight; four bytes per scale, or two in groups; one per zero point.
    scales = {"tensor": 1, "channel": OUT, "group": OUT * IN // 16}[scheme.granularity]
    scale_bytes = 2 if scheme.granularity == "group" else 4
    assert expected == OUT * IN * scheme.bits // 8 + scales * (scale_bytes + (not scheme.symmetric))


@every_scheme
def test_quantized_tensors_fit_the_empty_layer(scheme: Scheme) -> None:
    layer = QuantizedLinear(scheme.tensors(OUT, IN), bias=False, device="meta")
    tensors = scheme.quantize(torch.randn(OUT, IN))
    buffers = dict(layer.named_buffers())
    assert list(tensors) == list(buffers)
    for name, tensor in tensors.items():
        assert (tensor.shape, tensor.dtype) == (buffers[name].shape, buffers[name].dtype)
        assert tensor.is_contiguous()
        assert buffers[name].is_meta, "the layer itself is not changed"
    assert not list(layer.parameters())


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_weight_is_off_by_more_than_its_step_allows(scheme: Scheme, dtype: torch.dtype) -> None:
    linear = nn.Linear(IN, OUT).to(dtype)
    layer = quantized(linear, scheme)
    weight = weight_of(layer)
    rows, columns = layer.scale.shape
    # In full range, a value beyond the largest code is off by up to a whole step.
    steps = layer.scale.double().abs().repeat_interleave(OUT // rows, 0).repeat_interleave(IN // columns, 1)
    assert ((weight - linear.weight.double()).abs() <= (1.0001 if scheme.full_range else 0.5001) * steps).all()
    # No step is larger than the whole weight asks for; groups' scales are rounded up to float16.
    low, high = linear.weight.double().amin().clamp(max=0), linear.weight.double().amax().clamp(min=0)
    widest = 2 * torch.maximum(-low, high) if scheme.symmetric else high - low
    count = {8: 254, 4: 14 if scheme.symmetric else 15}[scheme.bits]
    assert steps.amax().item() <= widest.item() / count * 1.001


@every_scheme
def test_dequantize_is_what_the_buffers_say(scheme: Scheme) -> None:
    layer = quantized(nn.Linear(IN, OUT), scheme)
    weight = layer.dequantize()
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.double(), weight_of(layer), rtol=2e-7, atol=0)


@every_scheme
def test_conv1d_keeps_its_weight_transposed(scheme: Scheme) -> None:
    conv = Conv1D(OUT, IN)
    linear = nn.Linear(IN, OUT)
    linear.weight.data, linear.bias.data = conv.weight.data.T.contiguous(), conv.bias.data
    ours, same = quantized(conv, scheme), quantized(linear, scheme)
    assert (ours.in_features, ours.out_features) == (IN, OUT)
    for name, buffer in same.named_buffers():
        assert torch.equal(getattr(ours, name), buffer)
        assert getattr(ours, name).is_contiguous()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "bits must be 8 or 4, got 3"),
        ({"granularity": "row"}, "granularity must be one of 'tensor', 'channel', 'group', got 'row'"),
        ({"granularity": "group", "group_size": 10}, "group_size must divide the 33 input features, got 10"),
        ({"bits": 4}, "in_features must be even for 4 bits, two codes in a byte, got 33"),
    ],
    ids=["bits", "granularity", "group size", "odd"],
)
def test_a_scheme_that_a_layer_cannot_have_is_refused(changes: dict[str, object], message: str) -> None:
    fields = {"bits": 8, "granularity": "tensor", "group_size": -1, "symmetric": True} | changes
    stored = NativeTensors(8, 33, **fields)  # type: ignore[arg-type]
    for refuse in (
        lambda: QuantizedLinear(stored, bias=False),
        lambda: Scheme(**fields).quantize(torch.zeros(8, 33)),  # type: ignore[arg-type]
        lambda: stored_bytes(stored),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            refuse()


def test_weights_that_do_not_belong_are_refused() -> None:
    scheme = Scheme(8, "channel", -1, symmetric=True)
    codes, scale = torch.zeros(8, 4, dtype=torch.int8), torch.ones(4, 1)
    with pytest.raises(ValueError, match=r"^weight must have shape \[4, 8\], got \[8, 4\]$"):
        scheme.tensors(4, 8).store(codes, scale)
    with pytest.raises(ValueError, match=r"^values must be finite"):
        scheme.quantize(torch.full((4, 8), torch.nan))
    # A loader that casts to the type of the codes first would leave zeros.
    with pytest.raises(ValueError, match=r"^weight must have a floating type, got torch.int8"):
        scheme.quantize(torch.zeros(4, 8, dtype=torch.int8))
