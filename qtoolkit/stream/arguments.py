"""Keep what blocks get beside the hidden states, for each batch of samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Span:
    """Name the samples of a batch.

    Attributes:
        first: the number of the first one.
        count: how many they are.
        exact: whether they run through the full-precision model while another one is being quantized.
    """

    first: int
    count: int
    exact: bool = False


@dataclass(frozen=True)
class Arguments:
    """Hold the arguments of one call of a block other than its hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Carried:
    """Stand for what the block before gives beside the hidden states, until it is known.

    Attributes:
        position: which of that block's outputs it is; 0 are the hidden states.
    """

    position: int


class BlockArguments:
    """Keep the arguments of every block for every batch.

    Masks and position embeddings are the same for all batches of a size, and kept once. What depends on the tokens is
    kept for each batch, on the CPU: the per-layer embeddings of Gemma 3n and Gemma 4, and the embeddings that Zamba's
    blocks get once more. So are dicts in which blocks leave keys and values for later ones.

    Args:
        num_blocks: of the model.

    Attributes:
        has_state: whether blocks get a dict in which they may leave values for later blocks.
        has_carried: whether blocks get more than hidden states from the one before: GLM-5's tell which tokens are seen.
    """

    def __init__(self, num_blocks: int) -> None:
        self.has_state = self.has_carried = False
        # By block: batch size -> the arguments of its first batch.
        self._shared: list[dict[int, Arguments]] = [{} for _ in range(num_blocks)]
        self._own: list[dict[Span, Arguments]] = [{} for _ in range(num_blocks)]

    @property
    def has_own(self) -> bool:
        """Check whether a batch has arguments that others of its size lack."""
        return any(self._own)

    def keep(self, span: Span, recorded: Mapping[int, Arguments]) -> None:
        """Keep the arguments that blocks got for a batch, by the number of each block."""
        same = _Sameness()
        for index, new in recorded.items():
            values = [*new.args, *new.kwargs.values()]
            self.has_state = self.has_state or any(isinstance(value, Mapping) for value in values)
            self.has_carried = self.has_carried or any(isinstance(value, Carried) for value in values)
            old = self._shared[index].setdefault(span.count, new)
            if old is new:
                continue
            pairs = zip(new.args, old.args, strict=True)
            args = tuple(previous if same(value, previous) else _to_cpu(value) for value, previous in pairs)
            kwargs = {
                name: old.kwargs[name] if same(value, old.kwargs[name]) else _to_cpu(value)
                for name, value in new.kwargs.items()
            }
            if any(value is not old.kwargs[name] for name, value in kwargs.items()) or any(
                value is not previous for value, previous in zip(args, old.args, strict=True)
            ):
                self._own[index][span] = Arguments(args, kwargs)

    def of(self, index: int, span: Span, device: str) -> Arguments:
        """Return a block's arguments for a batch, on a device."""
        own = self._own[index].get(span)
        if own is None:
            return self._shared[index][span.count]
        args = tuple(_to_device(value, device) for value in own.args)
        return Arguments(args, {name: _to_device(value, device) for name, value in own.kwargs.items()})

    def forget(self, index: int) -> None:
        """Free the arguments of a block that no batch runs through again."""
        self._shared[index] = {}
        self._own[index] = {}


class _Sameness:
    """Tell whether two arguments are alike; each pair of tensors is compared once for all blocks."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, one: Any, other: Any) -> bool:
        if one is other:
            return True
        if isinstance(one, torch.Tensor):
            key = id(one), id(other)
            if key not in self._known:
                self._known[key] = _equal(one, other)
            return self._known[key]
        if isinstance(one, tuple | list):
            return type(one) is type(other) and len(one) == len(other) and all(map(self, one, other))
        if isinstance(one, bool | int | float | str | Carried):
            return bool(one == other)
        # A dict that blocks write into belongs to its batch.
        return False


def _equal(one: torch.Tensor, other: Any) -> bool:
    return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)


def _to_cpu(value: Any) -> Any:
    # A copy: a view would keep all layers' values alive.
    return value.to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _to_device(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
