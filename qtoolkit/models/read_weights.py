"""Find the linear layers whose weight a model reads instead of calling the layer: nothing can stand in their place."""

import dis
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from types import CodeType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from qtoolkit.models.empty_runs import run_without_values

# Enough for a convolution over time.
_TOKENS = 8


def layers_with_read_weights(model: PreTrainedModel, *, marked: bool = False) -> frozenset[str]:
    """Return the full names of the linear layers whose weight is read in a forward pass by another module.

    Mamba multiplies with `self.dt_proj.weight`. The code of the modules' classes says what may be read; only where
    there is any, the model is run on the meta device. What it reads until it needs a value, if it does, counts, and so
    does the same part of all modules of that class. Of layers that the run did not come to (experts and some masks need
    values, and no text runs through towers of images) the code of the class around them decides.

    Args:
        model: on the meta device.
        marked: whether it runs as transformers lets bitsandbytes' layers run. Its configs say that it is quantized:
            FalconMamba and Jamba then call the layer whose weight they read otherwise. And its layers have weights,
            of integers: HunYuan's router asks for the type, and calls the layer; mamba turns its output head's inputs
            into that type, which would then be integers.
    """
    suspects = dict(_suspects(model))
    if not suspects:
        return frozenset()
    read: set[str] = set()
    called: set[str] = set()
    with _watched(suspects, read, called, marked=marked), _marked(model) if marked else nullcontext():
        run_without_values(model, _TOKENS)
    parts = {_part_of(model, name) for name in read}
    known = parts | {_part_of(model, name) for name in called}
    for part in {_part_of(model, name) for name in suspects} - known:
        kind, own = part
        if own in _weights_read_by(kind):
            parts.add(part)
    return frozenset(name for name in suspects if _part_of(model, name) in parts)


@contextmanager
def _marked(model: PreTrainedModel) -> Iterator[None]:
    """Let the configs of a model say that it is quantized, for the time of a `with` block.

    Source: `_assign_is_quantized` of transformers (`quantizers/base.py`).
    """
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    unmarked = [config for config in configs.values() if not hasattr(config, "_is_quantized")]
    for config in unmarked:
        config._is_quantized = True  # noqa: SLF001
    try:
        yield
    finally:
        for config in unmarked:
            del config._is_quantized  # noqa: SLF001


def _part_of(model: PreTrainedModel, name: str) -> tuple[Any, str]:
    """Return the class of the module around a layer, and the layer's name in it."""
    around, _, own = name.rpartition(".")
    return type(model.get_submodule(around)), own


def _suspects(model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of whose name a class of the model reads a weight somewhere, by their full names."""
    kinds: set[Any] = {type(module) for module in model.modules()}
    read = frozenset().union(*(_weights_read_by(kind) for kind in kinds))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in read:
            yield name, module


@cache
def _weights_read_by(kind: Any) -> frozenset[str]:
    """Return the attributes of a class whose weight its own functions read: "gate" of `self.gate.weight`.

    Python's instructions say it, at once. `inspect.getsource` would parse the whole file for each class, and of two
    threads that parse at one time, one ends in a SystemError of Python 3.11.7.
    """
    functions = (getattr(value, "fget", None) or getattr(value, "__func__", value) for value in vars(kind).values())
    codes = (getattr(inspect.unwrap(function), "__code__", None) for function in functions if callable(function))
    return frozenset(name for code in codes if isinstance(code, CodeType) for name in _weights_read_in(code))


def _weights_read_in(code: CodeType) -> Iterator[str]:
    """Yield the names X of each `.X.weight` in a function, and in those that are written in it."""
    for first, second in pairwise(dis.get_instructions(code)):
        if first.opname == second.opname == "LOAD_ATTR" and second.argval == "weight":
            yield str(first.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _weights_read_in(inner)


@contextmanager
def _watched(layers: Mapping[str, nn.Linear], read: set[str], called: set[str], *, marked: bool) -> Iterator[None]:
    """Add the names of layers that run to `called`, for the time of a `with` block.

    Those whose weight is read but by themselves are added to `read`; where marked, its type alone may be.
    """
    kinds = {name: type(layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.__class__ = _watching(kinds[name], name, read, called, marked=marked)
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.__class__ = kinds[name]


def _watching(kind: type[nn.Linear], name: str, read: set[str], called: set[str], *, marked: bool) -> type[nn.Linear]:
    """Return a subclass of a linear layer that adds its name to `called` when it runs.

    It adds it to `read` when its weight is read by others, or where marked, when they read more than its type, which
    then is that of integers, or give it inputs of that type.
    """
    typed = _typed(name, read)

    def weight(self: nn.Linear) -> torch.Tensor | None:
        own = self._parameters["weight"]
        if marked and own is not None:
            return own.as_subclass(typed)
        read.add(name)
        return own

    def forward(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        called.add(name)
        own = self._parameters["weight"]
        assert own is not None
        if not x.is_floating_point():
            read.add(name)
            x = x.to(own.dtype)
        return nn.functional.linear(x, own, self._parameters["bias"])

    return type(kind.__name__, (kind,), {"weight": property(weight), "forward": forward})


def _typed(name: str, read: set[str]) -> type[torch.Tensor]:
    """Return a subclass of tensors that says that it holds bytes, and adds a name to `read` for what else is asked."""

    def answer(
        cls: Any, function: Any, kinds: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__self__", None) is torch.Tensor.dtype:
            return torch.int8
        read.add(name)
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
            return function(*arguments, **options or {})

    return type("Typed", (torch.Tensor,), {"__torch_function__": classmethod(answer)})
