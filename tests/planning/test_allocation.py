"""Bits under a budget: compared with every possible layout, and with the same bits for all."""

import doctest
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtoolkit.planning import allocation
from qtoolkit.planning.allocation import Choice, Choices, allocate, total_loss, total_size

pytestmark = pytest.mark.once

BITS = (2, 3, 4, 8)


@st.composite
def models(draw: st.DrawFn, max_units: int) -> dict[str, dict[int, Choice]]:
    """Layers of any sizes and sensitivities; a bit more leaves a quarter of the loss, more or less."""
    count = draw(st.integers(1, max_units))
    model = {}
    for unit in range(count):
        weights, scale = draw(st.integers(8, 1000)), draw(st.floats(1e-6, 1.0))
        noise = [draw(st.floats(0.5, 2.0)) for _ in BITS]
        model[str(unit)] = {
            bits: Choice(weights * bits // 8 + 1, scale * factor / 4**bits)
            for bits, factor in zip(BITS, noise, strict=True)
        }
    return model


def best(choices: Choices, budget: int) -> float:
    """The least loss of all layouts, tried one by one."""
    layouts = (dict(zip(choices, bits, strict=True)) for bits in product(*choices.values()))
    return min(total_loss(choices, chosen) for chosen in layouts if total_size(choices, chosen) <= budget)


def limits(choices: Choices) -> tuple[int, int]:
    sizes = [[choice.size for choice in own.values()] for own in choices.values()]
    return sum(map(min, sizes)), sum(map(max, sizes))


@given(models(max_units=40), st.floats(0, 1.1))
@settings(max_examples=50, deadline=None)
def test_never_over_the_budget_and_never_worse_than_the_same_bits_for_all(
    choices: dict[str, dict[int, Choice]], share: float
) -> None:
    low, high = limits(choices)
    budget = low + int(share * (high - low))
    chosen = allocate(choices, budget)
    assert chosen.keys() == choices.keys()
    assert total_size(choices, chosen) <= budget
    for bits in BITS:
        uniform = dict.fromkeys(choices, bits)
        if total_size(choices, uniform) <= budget:
            assert total_loss(choices, chosen) <= total_loss(choices, uniform)


@given(models(max_units=4), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_as_good_as_the_best_layout_but_for_one_step(choices: dict[str, dict[int, Choice]], share: float) -> None:
    """Greedy on hulls loses to the optimum at most what its first step that did not fit would have saved."""
    low, high = limits(choices)
    budget = low + int(share * (high - low))
    found, least = total_loss(choices, allocate(choices, budget)), best(choices, budget)
    largest = max(max(a.loss - b.loss for a in own.values() for b in own.values()) for own in choices.values())
    assert least <= found + 1e-12
    assert found <= least + largest


@pytest.mark.parametrize(
    ("budget", "bits"), [(200, [2, 2]), (299, [2, 2]), (300, [2, 4]), (399, [2, 4]), (400, [4, 4])]
)
def test_steps_are_taken_where_they_save_most(budget: int, bits: list[int]) -> None:
    choices = {"a": {2: Choice(100, 2.0), 4: Choice(200, 1.0)}, "b": {2: Choice(100, 5.0), 4: Choice(200, 1.0)}}
    assert list(allocate(choices, budget).values()) == bits


def test_what_is_left_is_filled() -> None:
    """b's step does not fit after a's; c's, which saves less for a byte, does."""
    choices = {
        "a": {2: Choice(10, 9.0), 4: Choice(20, 0.0)},
        "b": {2: Choice(10, 9.0), 4: Choice(30, 0.0)},
        "c": {2: Choice(10, 0.5), 4: Choice(15, 0.0)},
    }
    assert allocate(choices, 45) == {"a": 4, "b": 2, "c": 4}


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="the smallest sizes take 100 bytes, the budget has 99"):
        allocate({"a": {2: Choice(100, 1.0)}}, 99)


def test_the_example_in_the_docstring() -> None:
    assert doctest.testmod(allocation).failed == 0
