"""Absmax and zero-point codes against the formulas, in plain Python."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qtoolkit.tensor.integer_codes import absmax_quantize, code_range, zero_point_quantize

pytestmark = pytest.mark.once

RANGES = {"8 bits": (-127, 127), "4 bits": (-8, 7)}
SCALE_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# float16 scales end at 65504 and float32 products at 3.4e38: values stay well below both.
VALUES = {
    dtype: st.lists(st.floats(-limit, limit, width=32), min_size=1, max_size=12)
    for dtype, limit in zip(SCALE_DTYPES, (2.0**126, 2.0**17, 2.0**126), strict=True)
}
# Of a code: the division and the product are float32.
ROUNDING = 1e-4


def dequantize(codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None) -> torch.Tensor:
    levels = codes.float() if zero_point is None else codes.float() - zero_point.float()
    return levels * scale


def step(low: float, high: float, steps: int) -> float:
    return (high - low) / steps if high > low else 1.0


def check_scale(scale: torch.Tensor, exact: float) -> None:
    """The stored scale is the exact one, or the next number of its type above it."""
    assert scale.shape == (1,)
    below = torch.nextafter(scale, torch.tensor(-math.inf, dtype=scale.dtype))
    assert below.item() < exact * (1 + 1e-15)
    assert scale.item() >= exact * (1 - 1e-15)


def check_codes(codes: torch.Tensor, exact: Sequence[float], q_min: int, q_max: int) -> None:
    """Each code is the exact one rounded to the nearest integer and clamped; ties may go either way."""
    assert codes.dtype == torch.int8
    for code, value in zip(codes.tolist(), exact, strict=True):
        assert q_min <= code <= q_max
        assert abs(code - min(max(value, q_min), q_max)) <= 0.5 + ROUNDING


def test_textbook_zero_point() -> None:
    codes, scale, zero_point = zero_point_quantize(torch.tensor([-1.0, 0.3, 1.0]), -127, 127)
    assert codes.tolist() == [-127, 38, 127]
    assert scale.item() == pytest.approx(2 / 254)
    assert zero_point.item() == 0
    assert dequantize(codes, scale, zero_point)[1].item() == pytest.approx(0.2992, abs=5e-5)


def test_textbook_absmax() -> None:
    # The example of the Hugging Face blog on LLM.int8(): 127 / 5.4 = 23.5 times the vector.
    x = torch.tensor([1.2, -0.5, -4.3, 1.2, -3.1, 0.8, 2.4, 5.4])
    codes, scale = absmax_quantize(x, 8)
    assert codes.tolist() == [28, -12, -101, 28, -73, 19, 56, 127]
    assert scale.item() == pytest.approx(5.4 / 127)


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES, ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_absmax_follows_the_formula_and_the_bound(bits: int, scale_dtype: torch.dtype) -> None:
    q_max = {8: 127, 4: 7}[bits]

    @settings(deadline=None)
    @given(VALUES[scale_dtype])
    @example([0.0, -0.0])
    @example([1e-45])
    @example([-3.0])
    def check(values: list[float]) -> None:
        codes, scale = absmax_quantize(torch.tensor(values), bits, scale_dtype=scale_dtype)
        assert scale.dtype == scale_dtype
        check_scale(scale, step(0, max(map(abs, values)), q_max))
        check_codes(codes, [value / scale.item() for value in values], -q_max, q_max)
        for value, back in zip(values, dequantize(codes, scale).tolist(), strict=True):
            assert abs(value - back) <= (0.5 + ROUNDING) * scale.item()

    check()


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES, ids=str)
@pytest.mark.parametrize(("q_min", "q_max"), RANGES.values(), ids=RANGES)
def test_zero_point_follows_the_formula_and_the_bound(q_min: int, q_max: int, scale_dtype: torch.dtype) -> None:
    @settings(deadline=None)
    @given(VALUES[scale_dtype])
    @example([0.0, -0.0])
    @example([1e-45])
    @example([5.0, 5.0])
    @example([-2.0, -1.0])
    @example([2.0**-20, 1.0])
    def check(values: list[float]) -> None:
        codes, scale, zero_point = zero_point_quantize(torch.tensor(values), q_min, q_max, scale_dtype=scale_dtype)
        low, high = min(0.0, *values), max(0.0, *values)
        assert scale.dtype == scale_dtype
        check_scale(scale, step(low, high, q_max - q_min))
        s, z = scale.item(), zero_point.item()
        check_codes(zero_point, [q_min - low / s], q_min, q_max)
        check_codes(codes, [value / s + z for value in values], q_min, q_max)
        for value, back in zip(values, dequantize(codes, scale, zero_point).tolist(), strict=True):
            assert abs(value - back) <= (0.5 + ROUNDING) * s
            assert value != 0 or back == 0, "0.0 comes back as 0.0"

    check()


@pytest.mark.parametrize(
    ("values", "codes", "zero_point"),
    [
        ([0.0, 0.0], [-127, -127], -127),
        ([5.0, 5.0], [127, 127], -127),
        ([-5.0, -5.0], [-127, -127], 127),
        ([1.0, 2.0], [0, 127], -127),
    ],
    ids=["zeros", "constant", "negative constant", "positive"],
)
def test_ranges_that_zero_point_widens_to_zero(values: list[float], codes: list[int], zero_point: int) -> None:
    found, scale, found_zero = zero_point_quantize(torch.tensor(values), -127, 127)
    assert (found.tolist(), found_zero.item()) == (codes, zero_point)
    torch.testing.assert_close(dequantize(found, scale, found_zero), torch.tensor(values), atol=2 / 254 / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "q_min", "q_max"), [(-1.5, 13.5, -8, 7), (-0.5, 253.5, -127, 127)], ids=["4 bits", "8 bits"]
)
def test_an_end_half_a_step_beyond_the_codes_is_clamped(low: float, high: float, q_min: int, q_max: int) -> None:
    # The scale is 1, and the zero point is rounded up to an even number: the high end would be q_max + 1.
    codes, scale, zero_point = zero_point_quantize(torch.tensor([low, high]), q_min, q_max)
    assert (scale.item(), zero_point.item()) == (1, q_min + math.ceil(-low))
    assert codes[1].item() == q_max
    assert dequantize(codes, scale, zero_point)[1].item() == high - 0.5


def test_each_group_has_its_own_scale() -> None:
    x = torch.tensor([[[1.0, -2.0], [100.0, 50.0]], [[0.0, 0.0], [-3.0, 1e-3]]])
    codes, scale = absmax_quantize(x, 8)
    assert codes.shape == x.shape
    assert scale.shape == (2, 2, 1)
    torch.testing.assert_close(scale.flatten(), torch.tensor([2 / 127, 100 / 127, 1.0, 3 / 127]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_arithmetic_is_at_least_float32_whatever_the_input(dtype: torch.dtype) -> None:
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    for got, expected in zip(absmax_quantize(x, 8), absmax_quantize(x.float(), 8), strict=True):
        torch.testing.assert_close(got, expected)
    for got, expected in zip(zero_point_quantize(x, -8, 7), zero_point_quantize(x.float(), -8, 7), strict=True):
        torch.testing.assert_close(got, expected)


def test_inputs_stay_unchanged() -> None:
    x = torch.randn(4, 8)
    before = x.clone()
    codes, scale, zero_point = zero_point_quantize(x, -8, 7)
    absmax_quantize(x, 4)
    kept = codes.clone()
    dequantize(codes, scale, zero_point)
    assert torch.equal(x, before)
    assert torch.equal(codes, kept)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, bad]])
    message = r"^values must be finite, got NaN or infinity in a tensor of shape \[2, 2\]$"
    with pytest.raises(ValueError, match=message):
        absmax_quantize(x, 8)
    with pytest.raises(ValueError, match=message):
        zero_point_quantize(x, -127, 127)


def test_a_scale_that_its_type_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^scales must fit torch.float16, at most 65504, got 142857$"):
        absmax_quantize(torch.tensor([1e6]), 4, scale_dtype=torch.float16)


@pytest.mark.parametrize(("q_min", "q_max"), [(-129, 127), (-128, 128), (3, 3), (7, -8)])
def test_codes_that_int8_cannot_hold_are_refused(q_min: int, q_max: int) -> None:
    with pytest.raises(ValueError, match=rf"within \[-128, 127\], got \[{q_min}, {q_max}\]"):
        zero_point_quantize(torch.ones(2), q_min, q_max)


def test_bits_that_there_are_not_are_refused() -> None:
    assert [code_range(bits, symmetric) for bits in (8, 4) for symmetric in (True, False)] == [
        (-127, 127),
        (-127, 127),
        (-7, 7),
        (-8, 7),
    ]
    with pytest.raises(ValueError, match=r"^bits must be 8 or 4, got 3$"):
        absmax_quantize(torch.ones(2), 3)


@pytest.mark.parametrize("bits", [8, 4])
def test_full_range_gives_the_largest_magnitude_the_smallest_code(bits: int) -> None:
    lowest = -(2 ** (bits - 1))

    @settings(deadline=None)
    @given(VALUES[torch.float32])
    @example([0.0, -0.0])
    @example([3.0, -3.0])
    def check(values: list[float]) -> None:
        codes, scale = absmax_quantize(torch.tensor(values), bits, full_range=True)
        largest = max(map(abs, values))
        check_scale(scale.abs(), largest / -lowest if largest > 0 else 1.0)
        if largest > 1e-30:
            assert (scale.item() < 0) == (max(values) > -min(values))
            check_codes(codes, [value / scale.item() for value in values], lowest, -lowest - 1)
            assert codes[[abs(value) for value in values].index(largest)].item() in (lowest, -lowest - 1)

    check()


def test_full_range_loses_less_of_gaussian_groups() -> None:
    x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    errors = [
        (dequantize(*absmax_quantize(x, 4, full_range=full_range)) - x).square().mean() for full_range in (False, True)
    ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("dtype", "scale_dtype"),
    [
        (dtype, scale_dtype)
        for dtype in SCALE_DTYPES
        for scale_dtype in SCALE_DTYPES
        # Other types exceed what float16 scales can hold.
        if scale_dtype != torch.float16 or dtype == torch.float16
    ],
)
def test_the_largest_number_of_a_type_does_not_become_infinity(dtype: torch.dtype, scale_dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for other in (0.0, -0.0015, -0.02, -0.0815, -1.0):
        for sign in (1, -1):
            x = torch.tensor([largest, largest * other, 1.0]).mul(sign).to(dtype)
            for bits, full_range in ((8, False), (4, False), (4, True)):
                codes, scale = absmax_quantize(x, bits, full_range=full_range, scale_dtype=scale_dtype)
                # The smallest code alone has no opposite: of two largest values one may be clamped, by a whole step.
                check_largest(x, dequantize(codes, scale.float()), scale, steps=1.0 if full_range else 0.5)
            for q_min, q_max in RANGES.values():
                codes, scale, zero_point = zero_point_quantize(x, q_min, q_max, scale_dtype=scale_dtype)
                check_largest(x, dequantize(codes, scale.float(), zero_point), scale, steps=1.0)


def check_largest(x: torch.Tensor, restored: torch.Tensor, scale: torch.Tensor, *, steps: float) -> None:
    """All values are finite in the type of x, and the first is restored to these steps and the rounding of scales."""
    assert restored.to(x.dtype).isfinite().all()
    rounding = torch.finfo(scale.dtype).eps * abs(x[0].double())
    assert abs(restored[0].double() - x[0].double()) <= abs(scale.double()) * steps + rounding
