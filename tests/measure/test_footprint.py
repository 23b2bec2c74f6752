"""Every tensor of a plain torch module counts, and each byte once: beside sums done by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from transformers import DynamicCache, LlamaConfig

from qtoolkit.measure.footprint import memory_footprint, num_parameters
from tests.sample_models import random_model


def floats(count: int) -> torch.Tensor:
    """A tensor of `count` float32, 4 bytes each."""
    return torch.zeros(count)


def with_attributes(**attributes: object) -> nn.Module:
    """A module without parameters, and these attributes in its `__dict__` or its registries."""
    module = nn.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


class Slots:
    __slots__ = ("table",)

    def __init__(self) -> None:
        self.table = floats(3)


class CallableObject:
    """Not a module and not a function, but can be called: a rotary embedding of older models."""

    def __init__(self) -> None:
        self.table = floats(3)

    def __call__(self) -> torch.Tensor:
        return self.table


@dataclass
class State:
    scale: torch.Tensor
    nested: "State | None" = None


def tied() -> nn.Module:
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    return nn.ModuleList([embedding, head])


def views() -> nn.Module:
    whole = floats(100)
    return with_attributes(first=nn.Parameter(whole[:10]), second=nn.Parameter(whole[50:60].view(2, 5)))


def overlapping_storages() -> nn.Module:
    """Two storages over one piece of memory, of which they share 60 bytes: what a mapped file can look like."""
    memory = bytearray(100)
    first = torch.frombuffer(memory, dtype=torch.uint8, count=80)
    second = torch.frombuffer(memory, dtype=torch.uint8, count=80, offset=20)
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    return with_attributes(first=first, second=second)


def buffers() -> nn.Module:
    module = nn.Module()
    module.register_buffer("kept", floats(5))
    module.register_buffer("not_saved", floats(7), persistent=False)
    return module


def quantized_parameter() -> nn.Module:
    """What bitsandbytes does: an object on a parameter holds tensors, and nested objects, and the module itself."""
    module = nn.Linear(4, 4, bias=False)
    module.weight.quant_state = State(floats(2), nested=State(floats(1)))  # type: ignore[attr-defined]
    module.weight.module = module  # type: ignore[attr-defined]
    return module


def cycle() -> nn.Module:
    ring: list[object] = [floats(3)]
    ring.append(ring)
    return with_attributes(ring=ring)


def compressed_sparse() -> torch.Tensor:
    """Zeros of [2, 3], two of them stored."""
    return torch.sparse_csc_tensor(
        torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1]), floats(2), (2, 3), check_invariants=True
    )


COUNTED = {
    "linear": (lambda: nn.Linear(4, 3), (4 * 3 + 3) * 4),
    "tied weights once": (tied, 10 * 4 * 4),
    "views keep the whole storage, once": (views, 100 * 4),
    "overlapping storages": (overlapping_storages, 100),
    "buffers, saved or not": (buffers, 12 * 4),
    "state on a parameter": (quantized_parameter, (16 + 2 + 1) * 4),
    "list, tuple, set and dict": (lambda: with_attributes(x=[floats(1), (floats(2),), {"k": {floats(3)}}]), 6 * 4),
    "plain object": (lambda: with_attributes(x=SimpleNamespace(table=floats(3))), 3 * 4),
    "object with slots": (lambda: with_attributes(x=Slots()), 3 * 4),
    "callable object": (lambda: with_attributes(x=CallableObject()), 3 * 4),
    "list that holds itself": (cycle, 3 * 4),
    "sparse: 2 values and 2 indices": (
        lambda: with_attributes(
            x=torch.sparse_coo_tensor(torch.tensor([[1, 5]]), floats(2), (9,), check_invariants=True)
        ),
        2 * 4 + 2 * 8,
    ),
    "compressed sparse: 2 values, 2 rows, 4 column ends": (
        lambda: with_attributes(x=compressed_sparse()),
        2 * 4 + 2 * 8 + 4 * 8,
    ),
    "tensor subclass: its two parts": (lambda: with_attributes(x=TwoTensor(floats(3), floats(3))), 2 * 3 * 4),
    "expanded tensor": (lambda: with_attributes(x=floats(1).expand(1000)), 4),
    "empty tensor": (lambda: with_attributes(x=floats(0)), 0),
}


@pytest.mark.filterwarnings("ignore:Sparse CSC tensor support is in beta")
@pytest.mark.parametrize(("build", "expected"), COUNTED.values(), ids=COUNTED)
def test_counted(build: Callable[[], nn.Module], expected: int) -> None:
    assert memory_footprint(build()) == expected


def with_hooks() -> nn.Module:
    module = with_attributes(forward=partial(print, floats(9)), _hf_hook=SimpleNamespace(weights=floats(9)))
    table = floats(9)
    module.register_forward_hook(lambda *_: table)
    return module


def with_functions() -> nn.Module:
    def function(self: object) -> None: ...

    function.table = floats(9)  # type: ignore[attr-defined]
    holder = type("Holder", (), {"table": floats(9), "method": function})
    return with_attributes(function=function, method=holder().method, cls=holder, package=torch)


def fake() -> nn.Module:
    with FakeTensorMode():
        return nn.Linear(4, 4)


def with_cache() -> nn.Module:
    cache = DynamicCache(config=LlamaConfig(num_hidden_layers=1))
    cache.update(torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 8, 4), 0)
    return with_attributes(cache=cache)


def with_config() -> nn.Module:
    config = LlamaConfig()
    config.table = floats(9)
    return with_attributes(config=config)


NOT_COUNTED = {
    "meta tensors": lambda: nn.Linear(4, 4, device="meta"),
    "fake tensors": fake,
    "hooks": with_hooks,
    "functions, classes and packages": with_functions,
    "key-value cache": with_cache,
    "config": with_config,
    "module outside the registry": lambda: with_attributes(teacher=(nn.Linear(4, 4),)),
}


@pytest.mark.parametrize("build", NOT_COUNTED.values(), ids=NOT_COUNTED)
def test_not_counted(build: Callable[[], nn.Module]) -> None:
    assert memory_footprint(build()) == 0


def test_gradients_are_not_counted() -> None:
    module = nn.Linear(4, 4, bias=False)
    module(floats(4)).sum().backward()
    assert module.weight.grad is not None
    assert memory_footprint(module) == 16 * 4


def test_lookups_of_attributes_are_left_alone() -> None:
    """Asking must not trigger what a property does: bitsandbytes raises or warns in some."""

    class Touchy:
        def __init__(self) -> None:
            self.table = floats(2)

        @property
        def cached(self) -> torch.Tensor:
            raise AssertionError

        def __getattr__(self, name: str) -> object:
            raise AssertionError(name)

    assert memory_footprint(with_attributes(x=Touchy())) == 8


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_parameters_of_a_model_are_counted_once(tie: bool) -> None:
    model = random_model("llama_tied" if tie else "llama")
    # A layer: q, o of 64x64, k, v of 32x64; gate, up and down of 64x128; two norms. Then embeddings and a norm.
    layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64
    embeddings = 256 * 64 * (1 if tie else 2)
    assert num_parameters(model) == 2 * layer + embeddings + 64
    # bfloat16, and the rotary embedding's two float32 buffers of half a head's 16 dimensions.
    assert memory_footprint(model) == 2 * num_parameters(model) + 2 * 8 * 4
