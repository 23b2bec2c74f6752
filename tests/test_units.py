"""Raw numbers as text."""

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_count, format_seconds

pytestmark = pytest.mark.once

UNITS = {"bytes": 0, "kB": 3, "MB": 6, "GB": 9, "TB": 12, "PB": 15}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (269_030_272, "269.0 MB"),
        (999_949_999, "999.9 MB"),
        (999_950_000, "1.0 GB"),
        (497_759_232, "497.8 MB"),
        (10**18, "1000.0 PB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(0, 10**17))
def test_bytes_are_right_to_the_last_digit_shown(count: int) -> None:
    value, unit = format_bytes(count).split()
    step = Decimal(1) if unit == "bytes" else Decimal("0.1")
    exact = Decimal(count).scaleb(-UNITS[unit])
    assert abs(Decimal(value) - exact) <= step / 2
    assert Decimal(value) < 1000 or unit == "PB"
    assert Decimal(value).quantize(step, ROUND_HALF_EVEN) == Decimal(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (3.21, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (75, "1 min 15 s"),
        (119.6, "2 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7260, "2 h 1 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.floats(0, 1e7))
def test_no_part_of_a_time_reaches_the_next_unit(seconds: float) -> None:
    parts = format_seconds(seconds).split()
    for value, unit in zip(parts[::2], parts[1::2], strict=True):
        assert unit == "h" or float(value) < 60


def test_bits_per_weight_count_all_that_is_stored() -> None:
    """NF4 with double quantization, [64, 64]: 2048 bytes of codes, 64 of scales, one float32 for those."""
    assert bits_per_weight(2048 + 64 + 4, 64 * 64) == pytest.approx(4.1328125)
    assert bits_per_weight(4096, 4096) == 8
    assert bits_per_weight(100, 0) == 0


def test_bits_and_counts() -> None:
    assert format_bits(4.1272) == "4.127 bits per weight"
    assert format_count(134_515_008) == "134,515,008"
