"""A figure has the digits that its standard error allows; one of rounding alone allows none."""

import pytest

from qtoolkit.records.quality import as_percent, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (26.61, 0.31, "26.61 ± 0.31 nats"),
        (0.5, 1.2e-9, "0.5000000000 ± 0.0000000012 nats"),
        (99.2125984251968, 1.4e-14, "99.21 nats"),
        (0.0, 1.4e-14, "0.000000000000000 ± 0.000000000000014 nats"),
        (1.5, float("inf"), "1.5 nats"),
        (1.5, None, "1.5 nats"),
    ],
    ids=["usual", "small", "rounding of float64", "no difference but rounding", "one window", "none"],
)
def test_a_standard_error_sets_the_digits(value: float, error: float | None, text: str) -> None:
    assert with_error(value, error, "nats") == text


def test_a_share_that_never_changed_has_no_digits_of_rounding() -> None:
    assert as_percent(0.992125984251968, 1.1e-16) == "99.21 %"
