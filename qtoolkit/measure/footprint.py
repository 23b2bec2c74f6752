"""Measure what a model keeps in memory: every tensor reachable from it, each byte counted once."""

import types
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_NOT_FOLLOWED = (nn.Module, type, types.ModuleType, types.FunctionType, types.MethodType, str, bytes, int, float)
# Classes of attributes whose tensors do not belong to the model. By name: importing transformers for `isinstance` would
# cost seconds for a plain torch module.
_NOT_THE_MODEL = {"PreTrainedConfig", "PretrainedConfig", "GenerationConfig", "PreTrainedTokenizerBase", "Cache"}

# A range of memory: device, first byte, one past the last byte.
_Span = tuple[str, int, int]


def memory_footprint(model: nn.Module) -> int:
    """Return the bytes of every tensor that stays in memory as long as the model does.

    These are parameters, buffers (persistent or not) and the tensors behind them: bitsandbytes' scales and tables
    (`weight.quant_state` with its nested state, `weight.SCB`, `MatmulLtState`), the parts of tensor subclasses, and
    tensors in lists, dicts and plain objects among a module's attributes. `get_memory_footprint` of transformers
    counts only the first two.

    Tensors count by their storage: tied weights and views of one storage count once, and a small view of a large
    storage counts as the whole storage. Tensors on the `meta` device hold no memory and count 0, and so do weights
    that accelerate offloads, which `meta` tensors replace in the module. Not counted are gradients, hooks, key-value
    caches, configs, tokenizers and modules that are not registered as submodules.

    Args:
        model: any torch module, quantized or not.

    Returns:
        Bytes, over all devices together.

    Example: a model of 1,000 tied embedding weights in bfloat16 and a float32 buffer of 32 takes
    1000 * 2 + 32 * 4 = 2128 bytes.
    """
    return _covered(span for tensor in _tensors(model) for span in _spans(tensor))


def beside_bytes(model: nn.Module) -> int:
    """Return the bytes of what `memory_footprint` counts of a model that is neither a parameter nor a buffer.

    A model without values holds these too: Inkling's tower for images makes a table of scales as it is built.
    """
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return _covered(span for tensor in _tensors(model) if id(tensor) not in known for span in _spans(tensor))


def num_parameters(model: nn.Module) -> int:
    """Return the number of weights of a model that is not quantized, tied ones counted once.

    A quantized model holds fewer numbers than it has weights (two 4-bit codes share a byte): count before quantizing.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Return every tensor that can be reached from the model's modules, each once."""
    pending: list[object] = []
    for module in model.modules():
        # Submodules come from `modules()`; the dicts of parameters and buffers are attributes like any other.
        pending += (value for name, value in vars(module).items() if name != "_modules" and "hook" not in name)
    seen: dict[int, object] = {}  # keeps the values alive, so that no id is reused
    while pending:
        value = pending.pop()
        type_: Any = type(value)  # mypy does not know that it has a hash
        if id(value) in seen or not _is_followed(type_):
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            yield value
        pending += [*_held_by(value), *(getattr(value, name, None) for name in _slots(type_))]


@lru_cache(maxsize=1000)  # types that are made as a program runs are let go
def _is_followed(type_: type) -> bool:
    """Check whether tensors reachable from values of a type belong to the model."""
    return not issubclass(type_, _NOT_FOLLOWED) and not any(base.__name__ in _NOT_THE_MODEL for base in type_.__mro__)


def _held_by(value: object) -> list[object]:
    """Return the items of a container, and the attributes in its `__dict__` of an object, a tensor among them."""
    held: list[object] = []
    if isinstance(value, dict):
        held += dict.values(value)
    elif isinstance(value, list | tuple | set | frozenset):
        held += value
    held += getattr(value, "__dict__", {}).values()
    return held


@lru_cache(maxsize=1000)  # types that are made as a program runs are let go
def _slots(type_: type) -> tuple[str, ...]:
    """Return the names of the attributes that a type and its bases keep in slots."""
    named = (vars(base).get("__slots__", ()) for base in type_.__mro__)
    return tuple(name for slots in named for name in ((slots,) if isinstance(slots, str) else slots))


def _spans(tensor: Tensor) -> Iterator[_Span]:
    """Return the storages of a tensor: one, or those of its parts for a sparse tensor or a tensor subclass."""
    for part in _parts(tensor):
        storage = part.untyped_storage()
        if storage.device.type != "meta":
            yield str(storage.device), storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _parts(getattr(tensor, name))
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())  # noqa: SLF001 `indices()` refuses uncoalesced tensors
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield tensor


def _covered(spans: Iterable[_Span]) -> int:
    """Return the number of bytes in at least one span: storages can overlap without being the same object."""
    total, end_device, end_byte = 0, "", 0
    for device, start, end in sorted(spans):
        if device != end_device:
            end_device, end_byte = device, 0
        total += max(0, end - max(start, end_byte))
        end_byte = max(end_byte, end)
    return total
