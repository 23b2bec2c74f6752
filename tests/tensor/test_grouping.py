"""Weights as groups that share a scale, and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtoolkit.tensor.grouping import GRANULARITIES, scale_shape, to_groups

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("granularity", "group_size", "expected"),
    [
        ("tensor", -1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("channel", -1, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("group", 2, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("group", 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
    ids=["tensor", "channel", "group of 2", "group of a row"],
)
def test_groups_are_neighbours_in_a_row(granularity: str, group_size: int, expected: list[list[int]]) -> None:
    weight = torch.arange(8.0).view(2, 4)
    groups = to_groups(weight, granularity, group_size)
    assert groups.tolist() == expected
    assert groups.data_ptr() == weight.data_ptr(), "a view, no copy"


@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 5),
    group_size=st.integers(1, 7),
    granularity=st.sampled_from(GRANULARITIES),
    transposed=st.booleans(),
)
def test_round_trip_and_order_of_scales(
    rows: int, groups: int, group_size: int, granularity: str, transposed: bool
) -> None:
    columns = groups * group_size
    weight = torch.randn(columns, rows).T if transposed else torch.randn(rows, columns)
    size = group_size if granularity == "group" else -1
    split = to_groups(weight, granularity, size)
    scales = split.amax(-1).view(scale_shape(rows, columns, granularity, size))
    # Each weight finds its own group's scale where the layer will look for it.
    for row in range(rows):
        for column in range(columns):
            own = scales[row % scales.shape[0], column * scales.shape[1] // columns]
            assert weight[row, column] <= own
    assert torch.equal(split.reshape(rows, columns), weight)


@pytest.mark.parametrize(
    ("shape", "granularity", "group_size", "message"),
    [
        ((4, 6), "rows", -1, "granularity must be one of 'tensor', 'channel', 'group', got 'rows'"),
        ((4, 6), "group", 4, "group_size must divide the 6 input features, got 4"),
        ((4, 6), "group", -1, "group_size must divide the 6 input features, got -1"),
        ((4, 6), "group", 0, "group_size must divide the 6 input features, got 0"),
        ((4, 6), "channel", 3, "group_size must be -1 with granularity 'channel', got 3"),
        ((4, 6, 2), "tensor", -1, r"weight must be a matrix \[out_features, in_features\], got shape \[4, 6, 2\]"),
    ],
    ids=["granularity", "no divisor", "no size", "zero", "size without groups", "no matrix"],
)
def test_errors_carry_the_numbers(shape: tuple[int, ...], granularity: str, group_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        to_groups(torch.zeros(shape), granularity, group_size)
