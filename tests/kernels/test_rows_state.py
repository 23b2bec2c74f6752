"""A layer saved, copied, moved and converted."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qtoolkit.kernels import QuantizedLinear
from tests.kernels.schemes import Scheme, every_scheme, quantized

pytestmark = pytest.mark.once


def empty_like(layer: QuantizedLinear, device: str = "cpu") -> QuantizedLinear:
    return QuantizedLinear(layer.stored, bias=layer.bias is not None, device=device)


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@every_scheme
def test_state_dict_round_trip_through_a_file(scheme: Scheme, tmp_path: Path) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    loaded = empty_like(layer)
    loaded.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert same(layer, loaded)
    x = torch.randn(3, 48)
    assert torch.equal(layer(x), loaded(x))


@every_scheme
def test_a_meta_skeleton_takes_its_tensors_by_name(scheme: Scheme) -> None:
    """As transformers loads: names come from the skeleton's state_dict, tensors are set as attributes."""
    layer = quantized(nn.Linear(48, 24), scheme)
    with torch.device("meta"):
        skeleton = empty_like(layer, device="meta")
    assert skeleton(torch.empty(2, 5, 48, device="meta")).shape == (2, 5, 24)
    for name, tensor in skeleton.state_dict().items():
        assert tensor.is_meta
        setattr(skeleton, name, getattr(layer, name))
    assert same(layer, skeleton)
    x = torch.randn(3, 48)
    assert torch.equal(layer(x), skeleton(x))


@every_scheme
def test_a_copy_is_whole_and_independent(scheme: Scheme) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    twin = copy.deepcopy(layer)
    assert same(layer, twin)
    twin.weight.zero_()
    assert layer.weight.any()


@every_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_converting_a_model_leaves_codes_and_scales(scheme: Scheme, dtype: torch.dtype) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    model = nn.Sequential(copy.deepcopy(layer)).to(dtype)
    converted = model[0]
    for name in ("weight", "scale", "zero_point"):
        before, after = getattr(layer, name, None), getattr(converted, name, None)
        assert after is before is None or (after.dtype == before.dtype and torch.equal(after, before))
    assert converted.bias.dtype == dtype
    assert converted(torch.randn(2, 48, dtype=dtype)).dtype == dtype
    # There and back: nothing but the bias was rounded.
    assert torch.equal(model.float()[0].dequantize(), layer.dequantize())


@every_scheme
def test_moving_and_converting_at_once(scheme: Scheme, device: str) -> None:
    layer = quantized(nn.Linear(48, 24), scheme)
    moved = copy.deepcopy(layer).to(device, torch.bfloat16)
    assert {buffer.device.type for buffer in moved.buffers()} == {device}
    assert moved.scale.dtype == layer.scale.dtype
    assert torch.equal(moved.scale.cpu(), layer.scale)
    allocated = copy.deepcopy(layer).to("meta").half().to_empty(device=device)
    assert (allocated.scale.dtype, allocated.scale.device.type) == (layer.scale.dtype, device)


def test_the_scheme_is_shown() -> None:
    layer = quantized(nn.Linear(48, 24), Scheme(4, "group", 16, symmetric=False))
    assert repr(layer) == (
        "QuantizedLinear(in_features=48, out_features=24, bias=True, "
        "bits=4, granularity='group', group_size=16, symmetric=False)"
    )
