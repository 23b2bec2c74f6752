"""A layer saved, copied, moved and converted: its tensors are those that were loaded, whatever it did since."""

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.tensor.lazy import LazyState, LazyTensor
from tests.kernels.gptq_layers import Kind, every_kernel_kind, every_kind, gptq_layer
from tests.kernels.gptq_layers import tensors_of as stored_tensors

pytestmark = pytest.mark.once

Tensors = dict[str, torch.Tensor]


def tensors_of(layer: nn.Module) -> Tensors:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def same(left: Tensors, right: Tensors) -> bool:
    return list(left) == list(right) and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )


def used(layer: QuantizedLinear) -> torch.Tensor:
    """The layer's outputs for a few tokens in bfloat16, which the kernel makes."""
    torch.manual_seed(1)
    y: torch.Tensor = layer(torch.randn(3, layer.in_features).bfloat16())
    return y


@every_kind
def test_the_state_is_what_was_loaded(kind: Kind) -> None:
    layer = gptq_layer(kind)
    before = tensors_of(layer)
    assert list(before) == ["qweight", "qzeros", "scales", "g_idx", "bias"]
    expected = used(layer.prepare())
    state = layer.state_dict()
    assert same(before, state)
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert torch.equal(used(layer), expected)
    assert same(before, tensors_of(layer))


@every_kernel_kind
def test_asking_for_the_state_leaves_the_layer_as_it_is(kind: Kind) -> None:
    layer = gptq_layer(kind).prepare()
    before, size = dict(layer.named_buffers()), memory_footprint(layer)
    layer.state_dict()
    after = dict(layer.named_buffers())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert memory_footprint(layer) == size
    assert layer.qweight is None


@every_kind
def test_a_state_that_may_be_lazy_says_what_it_will_be(kind: Kind) -> None:
    layer = gptq_layer(kind).prepare()
    expected, state = layer.state_dict(), layer.state_dict(destination=LazyState())
    assert isinstance(state["qweight"], LazyTensor) == (layer.qweight is None)
    for name, tensor in state.items():
        assert (tensor.shape, tensor.dtype, tensor.nbytes) == (
            expected[name].shape,
            expected[name].dtype,
            expected[name].nbytes,
        )
        assert torch.equal(tensor[...], expected[name])


@every_kind
def test_round_trip_through_a_file(kind: Kind, tmp_path: Path) -> None:
    layer = gptq_layer(kind).prepare()
    expected = used(layer)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    # One that is prepared already takes other values too.
    loaded = gptq_layer(kind, seed=5).prepare()
    loaded.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert same(tensors_of(layer), tensors_of(loaded))
    assert torch.equal(used(loaded), expected)


@every_kind
def test_a_meta_skeleton_takes_its_tensors_by_name(kind: Kind) -> None:
    """As transformers loads: names come from the skeleton's state_dict, tensors are set as attributes."""
    layer = gptq_layer(kind)
    skeleton = QuantizedLinear(stored_tensors(kind), bias=True, device="meta")
    for name, tensor in skeleton.state_dict().items():
        assert tensor.is_meta
        setattr(skeleton, name, getattr(layer, name))
    assert same(tensors_of(layer), tensors_of(skeleton))
    assert torch.equal(used(skeleton.prepare()), used(layer.prepare()))


def pickled(layer: QuantizedLinear) -> QuantizedLinear:
    copied: QuantizedLinear = pickle.loads(pickle.dumps(layer))  # noqa: S301
    return copied


@every_kernel_kind
@pytest.mark.parametrize("how", [copy.deepcopy, pickled], ids=["copy", "pickle"])
def test_a_copy_is_whole_and_independent(kind: Kind, how: Callable[[QuantizedLinear], QuantizedLinear]) -> None:
    layer = gptq_layer(kind).prepare()
    expected, before = used(layer), tensors_of(layer)
    twin = how(layer)
    assert same(tensors_of(twin), before)
    assert torch.equal(used(twin), expected)
    twin.state_dict()["qweight"].zero_()
    assert same(tensors_of(layer), before)
    assert torch.equal(used(layer), expected)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_converting_a_model_leaves_codes_and_scales(kind: Kind, dtype: torch.dtype) -> None:
    layer = gptq_layer(kind)
    before = tensors_of(layer)
    model = nn.Sequential(layer.prepare()).to(dtype)
    converted = tensors_of(model[0])
    assert converted.pop("bias").dtype == dtype
    before.pop("bias")
    assert same(before, converted)
    assert used(layer).dtype == torch.bfloat16


@every_kind
def test_moving_and_converting_at_once(kind: Kind, device: str) -> None:
    layer = gptq_layer(kind).prepare()
    expected, before = layer.dequantize(), tensors_of(layer)
    moved = copy.deepcopy(layer).to(device, torch.bfloat16)
    assert {buffer.device.type for buffer in moved.buffers()} == {device}
    assert torch.equal(moved.dequantize().cpu(), expected)
    back = tensors_of(moved.cpu().float())
    assert back.pop("bias").dtype == torch.float32
    before.pop("bias")
    assert same(before, back)
    allocated = copy.deepcopy(layer).to("meta").half().to_empty(device=device)
    assert (allocated.scales.dtype, allocated.scales.device.type) == (torch.float16, device)


@every_kernel_kind
def test_a_layer_that_was_moved_is_prepared_again(kind: Kind, device: str) -> None:
    layer = gptq_layer(kind).prepare().to(device, torch.bfloat16)
    used(layer.to(device)) if device == "cpu" else layer(torch.ones(1, layer.in_features, device=device).bfloat16())
    if device == "cpu" or torch.cuda.get_device_capability() >= (8, 0):
        assert layer.qweight is None


def test_many_threads_use_a_layer_that_is_not_prepared_yet() -> None:
    prepared = gptq_layer(Kind(4, in_features=512, out_features=512)).prepare()
    expected, layer = used(prepared), copy.deepcopy(prepared)
    assert layer.qweight is not None
    found: list[torch.Tensor] = []
    torch.manual_seed(1)
    x = torch.randn(3, 512).bfloat16()
    threads = [threading.Thread(target=lambda: found.append(layer(x))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(torch.equal(y, expected) for y in found)


def test_the_format_is_shown() -> None:
    assert repr(gptq_layer(Kind(3, sym=False, checkpoint_format="gptq_v2"))) == (
        "QuantizedLinear(in_features=128, out_features=128, bias=True, "
        "bits=3, group_size=32, checkpoint_format='gptq_v2')"
    )
