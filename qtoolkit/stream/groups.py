"""Which layers of a block are given the same inputs."""

import re
import weakref
from collections.abc import Sequence

import torch
from torch import nn

from qtoolkit.stream.forward import Call, watched

# Names within a block.
Group = tuple[str, ...]
# A number that stands alone in a name: an expert's place, not the 1 of "w1".
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def trace(block: nn.Module, names: Sequence[str], call: Call) -> tuple[Group, ...]:
    """Run a block once, and find which of its layers share their inputs, in the order in which they run.

    Args:
        block: a block with values.
        names: of the layers asked about, within the block.
        call: runs the block on some sample.
    """
    seen: list[tuple[weakref.ref[torch.Tensor], list[str]]] = []

    def note(name: str, x: torch.Tensor) -> None:
        # By identity; inputs that are gone are nobody's.
        for earlier, group in seen:
            if earlier() is x:
                group.append(name)
                return
        seen.append((weakref.ref(x), [name]))

    with watched(block, names, note), torch.no_grad():
        call()
    return tuple(tuple(group) for _, group in seen)


def with_unseen(groups: Sequence[Group], names: Sequence[str]) -> tuple[Group, ...]:
    """Groups that one sample showed, with those of experts that it did not reach, in the order in which they run.

    An expert that was not reached is as one that was: its names differ in a number.

    Example: the router sent nothing to expert 0.

        >>> with_unseen([("q",), ("e.1.up", "e.1.gate"), ("e.1.down",)], ["q", "e.0.up", "e.0.gate", "e.0.down"])
        (('q',), ('e.0.up', 'e.0.gate'), ('e.0.down',))
    """
    patterns = {
        _NUMBER.sub("*", name): (place, within)
        for place, group in enumerate(groups)
        for within, name in enumerate(group)
    }
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        first.setdefault(_NUMBER.split(group[0])[0], place)
    found: dict[tuple[int, tuple[int, ...], int], dict[int, str]] = {}
    for name in names:
        pattern, numbers = _NUMBER.sub("*", name), tuple(map(int, _NUMBER.findall(name)))
        # A layer like no other that never ran comes last, alone.
        place, within = patterns.get(pattern, (len(groups) + len(found), 0))
        start = first.get(_NUMBER.split(name)[0], place) if numbers else place
        found.setdefault((start, numbers, place), {})[within] = name
    return tuple(tuple(group[within] for within in sorted(group)) for _, group in sorted(found.items()))
