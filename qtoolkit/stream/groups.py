"""Find which layers of a block get the same inputs."""

import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from qtoolkit.stream.forward import Call, observed

# Layers that get the same inputs, by their names within a block.
Group = tuple[str, ...]
# A name's component that is a number: an expert's index, but not the 1 of "w1".
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class GroupInputs:
    """Hold what a group of layers gets in one batch, and what the full-precision model has at the same tokens.

    At most one of `exact` and `lacking` is given, and neither without a second stream, or for layers that cannot be
    corrected (`find_corrections`).

    Attributes:
        inputs: of the layers, in the stream of the quantized model, Xq [..., in].
        exact: the same in the full-precision model, X [..., in].
        lacking: for a layer that writes into the residual stream, what the stream lacks after its unquantized output is
            added, (R + X W^T) - (Rq + Xq W^T) [..., out].
        weights: how much each token counts, float32 [tokens]; None if all count alike.
    """

    inputs: torch.Tensor
    exact: torch.Tensor | None = None
    lacking: torch.Tensor | None = None
    weights: torch.Tensor | None = None


def is_indexed(name: str) -> bool:
    """Check whether a layer is one of a list within its block, as the layers of an expert are."""
    return _NUMBER.search(name) is not None


def without_indices(name: str) -> str:
    """Return a name within a block with `*` for each index: "mlp.experts.*.up_proj"."""
    return _NUMBER.sub("*", name)


def trace(block: nn.Module, names: Sequence[str], call: Call) -> tuple[Group, ...]:
    """Run a block once and return groups of layers that share their inputs, in the order in which they run.

    Args:
        block: a block that is in memory.
        names: names of the layers within the block.
        call: runs the block on any sample.
    """
    inputs: list[tuple[weakref.ref[torch.Tensor], list[str]]] = []

    def note(name: str, x: torch.Tensor) -> None:
        # Compared by identity; weak references, so that no freed tensor's id is taken for another's.
        for earlier, group in inputs:
            if earlier() is x:
                group.append(name)
                return
        inputs.append((weakref.ref(x), [name]))

    with observed(block, names, note), torch.no_grad():
        call()
    return tuple(tuple(group) for _, group in inputs)


def with_unseen(groups: Sequence[Group], names: Sequence[str]) -> tuple[Group, ...]:
    """Add the groups of experts that got no tokens to the groups of one sample, in the order in which they run.

    An expert that got no tokens is grouped like one that did: only the index in its name differs.

    Example: the router sent no token to expert 0.

        >>> with_unseen([("q",), ("e.1.up", "e.1.gate"), ("e.1.down",)], ["q", "e.0.up", "e.0.gate", "e.0.down"])
        (('q',), ('e.0.up', 'e.0.gate'), ('e.0.down',))
    """
    # Name without indices -> number of its group, and its position in the group.
    patterns = {
        _NUMBER.sub("*", name): (group_number, position)
        for group_number, group in enumerate(groups)
        for position, name in enumerate(group)
    }
    # Name up to the first index -> number of the first group with such names.
    first_groups: dict[str, int] = {}
    for group_number, group in enumerate(groups):
        first_groups.setdefault(_NUMBER.split(group[0])[0], group_number)
    # (first group of these experts, indices of the expert, group) -> position -> name.
    all_groups: dict[tuple[int, tuple[int, ...], int], dict[int, str]] = {}
    for name in names:
        indices = tuple(map(int, _NUMBER.findall(name)))
        # A layer that never ran, and is like no other, comes last in a group of its own.
        group_number, position = patterns.get(_NUMBER.sub("*", name), (len(groups) + len(all_groups), 0))
        start = first_groups.get(_NUMBER.split(name)[0], group_number) if indices else group_number
        all_groups.setdefault((start, indices, group_number), {})[position] = name
    return tuple(tuple(group[position] for position in sorted(group)) for _, group in sorted(all_groups.items()))
