"""Experts that a sample did not reach are grouped like those that it did."""

import pytest

from qtoolkit.stream.groups import with_unseen

pytestmark = pytest.mark.once

DENSE = [("q", "k", "v"), ("o",)]


def expert(index: int) -> list[tuple[str, ...]]:
    return [(f"mlp.experts.{index}.w1", f"mlp.experts.{index}.w3"), (f"mlp.experts.{index}.w2",)]


@pytest.mark.parametrize("reached", [[0, 1, 2], [1], [2, 0]], ids=["all", "one", "two"])
def test_experts_stand_in_the_order_in_which_they_run(reached: list[int]) -> None:
    seen = [*DENSE, *(group for index in sorted(reached) for group in expert(index))]
    wanted = [*DENSE, *(group for index in range(3) for group in expert(index))]
    names = [name for group in wanted for name in sorted(group)]
    assert list(with_unseen(seen, names)) == wanted


def test_shared_experts_that_run_afterwards_stay_there() -> None:
    seen = [*DENSE, *expert(1), ("mlp.shared.up", "mlp.shared.gate"), ("mlp.shared.down",)]
    names = [name for group in [*seen, *expert(0)] for name in group]
    assert list(with_unseen(seen, names)) == [*DENSE, *expert(0), *expert(1), *seen[-2:]]


def test_a_layer_that_nothing_reached_comes_last() -> None:
    assert with_unseen(DENSE, ["q", "k", "v", "o", "unused"])[-1] == ("unused",)
