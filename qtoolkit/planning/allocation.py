"""Choose the bits, or the type, of each layer so that the sum of predicted losses is least under a budget of bytes."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """Size and loss of some layers with some number of bits, or of some type.

    Attributes:
        size: bytes that the layers take.
        loss: nats per token that they add to the loss of the model.
    """

    size: int
    loss: float


# Unit (layers that get the same bits) -> bits, or the name of a type -> size and loss.
Choices = Mapping[str, Mapping[Any, Choice]]


def allocate(choices: Choices, budget: int) -> dict[str, Any]:
    """Return bits for each unit of layers: the sum of losses small, the sum of sizes at most the budget.

    This is a multiple-choice knapsack (Sinha and Zoltners, Operations Research 27, 1979), solved greedily on convex
    hulls: every unit begins with its smallest size, and steps along the hull of its choices are taken in the order of
    loss saved per byte, which is optimal up to the last step; the rest of the budget goes to the single changes that
    save most. The result is never worse than the same bits for all.

    Args:
        choices: at least one for each unit.
        budget: bytes of all units together.

    Raises:
        ValueError: the smallest sizes take more than the budget.

    Example: beyond the smallest sizes, 100 bytes remain, and b saves more with them than a.

        >>> a = {4: Choice(100, 3.0), 8: Choice(200, 0.5)}
        >>> b = {4: Choice(100, 9.0), 8: Choice(200, 1.0)}
        >>> allocate({"a": a, "b": b}, 300)
        {'a': 4, 'b': 8}
    """
    smallest = {unit: min(own, key=lambda bits: (own[bits].size, own[bits].loss)) for unit, own in choices.items()}
    least = total_size(choices, smallest)
    if least > budget:
        raise ValueError(f"the smallest sizes take {least} bytes, the budget has {budget}")
    starts = [_by_hulls(choices, smallest, budget - least)]
    for bits in sorted(set.intersection(*(set(own) for own in choices.values()))) if choices else ():
        uniform = dict.fromkeys(choices, bits)
        if total_size(choices, uniform) <= budget:
            starts.append(uniform)
    filled = [_fill(choices, start, budget - total_size(choices, start)) for start in starts]
    return min(filled, key=lambda chosen: total_loss(choices, chosen))


def total_size(choices: Choices, chosen: Mapping[str, Any]) -> int:
    """Return the bytes of all units with these bits."""
    return sum(choices[unit][bits].size for unit, bits in chosen.items())


def total_loss(choices: Choices, chosen: Mapping[str, Any]) -> float:
    """Return the sum of losses of all units with these bits."""
    return sum(choices[unit][bits].loss for unit, bits in chosen.items())


def _by_hulls(choices: Choices, smallest: Mapping[str, Any], left: int) -> dict[str, Any]:
    """Take steps along the hulls, steepest first; a unit whose step does not fit takes no more."""
    chosen = dict(smallest)
    stopped = set()
    steps = [
        (-saved / added, unit, bits, added)
        for unit, own in choices.items()
        for bits, added, saved in _hull_steps(own, smallest[unit])
    ]
    for _, unit, bits, added in sorted(steps):
        if unit not in stopped and added <= left:
            chosen[unit] = bits
            left -= added
        else:
            stopped.add(unit)
    return chosen


def _hull_steps(own: Mapping[Any, Choice], start: Any) -> list[tuple[Any, int, float]]:
    """Return the corners of the lower hull after `start`: bits there, bytes added, and loss saved by the step."""
    steps: list[tuple[Any, int, float]] = []
    while True:
        corner = own[start]
        larger = [bits for bits in own if own[bits].size > corner.size and own[bits].loss < corner.loss]
        if not larger:
            return steps
        # The steepest step; of equally steep ones the longest.
        to = max(larger, key=lambda b: ((corner.loss - own[b].loss) / (own[b].size - corner.size), own[b].size))
        steps.append((to, own[to].size - corner.size, corner.loss - own[to].loss))
        start = to


def _fill(choices: Choices, start: Mapping[str, Any], left: int) -> dict[str, Any]:
    """Make single changes that fit, the one that saves most first, until there is none."""
    chosen = dict(start)
    while True:
        changes = [
            (choices[unit][bits].loss - choice.loss, choice.size - choices[unit][bits].size, unit, other)
            for unit, bits in chosen.items()
            for other, choice in choices[unit].items()
            if choice.loss < choices[unit][bits].loss and choice.size - choices[unit][bits].size <= left
        ]
        if not changes:
            return chosen
        _, added, unit, bits = max(changes)
        chosen[unit] = bits
        left -= added
