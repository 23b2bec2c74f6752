"""Float8 codes and scales against a table of the type's values and plain loops in float64."""

import pytest
import torch

from qtoolkit.tensor.float8 import float8_dequantize, float8_quantize, float8_values, has_nan, scale_shape

SCALE_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def value_of(byte: int) -> float:
    """Return the number that a byte is, by the definition of the type; NaN left out."""
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 0xF, byte & 7
    return sign * (mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


NUMBERS = [byte for byte in range(256) if byte & 0x7F != 0x7F]
VALUES = torch.tensor([value_of(byte) for byte in NUMBERS], dtype=torch.float64)


def codes_of(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.uint8).view(torch.float8_e4m3fn)


def sample(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    weight[:, 0] *= 40  # outliers
    weight[1] *= 1e-4
    weight[2] = 0
    return weight.to(dtype)


def parts(rows: int, columns: int, block: tuple[int, int] | None) -> list[tuple[int, int, slice, slice]]:
    """Return row and column of each scale, and the weights that share it."""
    height, width = block or (1, columns)
    return [
        (i, j, slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
        for i in range(-(-rows // height))
        for j in range(-(-columns // width))
    ]


def test_every_number_of_the_type_is_read_exactly() -> None:
    codes = codes_of(NUMBERS)
    assert torch.equal(float8_values(codes).double(), VALUES)
    assert torch.equal(codes.double(), VALUES)


@pytest.mark.parametrize("scale_dtype", SCALE_TYPES)
@pytest.mark.parametrize(
    ("rows", "columns", "block"),
    [(7, 33, None), (6, 10, (2, 4)), (5, 8, (2, 8)), (4, 9, (128, 128)), (8, 8, (4, 4))],
)
def test_codes_are_the_nearest_to_weight_over_scale(
    rows: int, columns: int, block: tuple[int, int] | None, scale_dtype: torch.dtype
) -> None:
    weight = sample(rows, columns)
    codes, scale = float8_quantize(weight, block=block, scale_dtype=scale_dtype)
    assert (codes.dtype, codes.shape) == (torch.float8_e4m3fn, weight.shape)
    assert (scale.dtype, scale.shape) == (scale_dtype, scale_shape(rows, columns, block))
    for i, j, outputs, inputs in parts(rows, columns, block):
        own = scale[i, j].double()
        largest = weight[outputs, inputs].double().abs().max()
        # The smallest number of the type that keeps all codes within 448; 1 for zeros.
        assert own == 1 if largest == 0 else largest / own <= 448
        below = torch.nextafter(scale[i, j], torch.zeros_like(scale[i, j])).double()
        assert largest == 0 or below == 0 or largest / below > 448
        wanted = (weight[outputs, inputs].double() / own).flatten()
        error = (codes[outputs, inputs].double().flatten() - wanted).abs()
        # Division in float32 may move a weight over the middle between two codes by its own rounding.
        assert (error <= (VALUES - wanted[:, None]).abs().amin(1) + wanted.abs() * 2**-23).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [None, (4, 5)])
def test_dequantizing_multiplies_and_rounds_once(block: tuple[int, int] | None, dtype: torch.dtype) -> None:
    codes, scale = float8_quantize(sample(9, 12), block=block, scale_dtype=torch.bfloat16)
    weight = float8_dequantize(codes, scale, block=block, dtype=dtype)
    for i, j, outputs, inputs in parts(9, 12, block):
        # A product of 4 and 8 significant bits is exact in float32.
        exact = codes[outputs, inputs].double() * scale[i, j].double()
        assert torch.equal(weight[outputs, inputs], exact.float().to(dtype))


def test_one_scale_in_any_shape_and_one_an_output() -> None:
    codes = codes_of([*range(6)]).view(2, 3)
    for shape in ((), (1,), (1, 1)):
        assert torch.equal(float8_dequantize(codes, torch.full(shape, 0.5)), codes.float() * 0.5)
    scale = torch.tensor([0.5, 3.0])
    assert torch.equal(float8_dequantize(codes, scale), codes.float() * scale[:, None])
    assert torch.equal(float8_dequantize(codes, scale[:, None]), codes.float() * scale[:, None])


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3), (3, 1), (0, 1)])
def test_other_numbers_of_scales_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"scales must have shape \[2, 1\]"):
        float8_dequantize(codes_of([*range(6)]).view(2, 3), torch.ones(shape))
    with pytest.raises(ValueError, match=r"scales must have shape \[1, 2\]"):
        float8_dequantize(codes_of([*range(6)]).view(2, 3), torch.ones(shape), block=(2, 2))


def test_the_smallest_weights_have_scales_above_zero() -> None:
    weight = torch.full((2, 4), 1e-45)
    for dtype in SCALE_TYPES:
        codes, scale = float8_quantize(weight, scale_dtype=dtype)
        assert (scale > 0).all()
        assert torch.isfinite(float8_dequantize(codes, scale)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("block", [None, (2, 3)])
def test_weights_that_are_not_finite_are_refused(bad: float, block: tuple[int, int] | None) -> None:
    weight = torch.ones(4, 8)
    weight[3, 7] = bad
    with pytest.raises(ValueError, match="finite"):
        float8_quantize(weight, block=block)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="floating type"):
        float8_quantize(torch.ones(2, 2, dtype=torch.int8))
    with pytest.raises(ValueError, match="floating type"):
        float8_quantize(torch.ones(2, 2).to(torch.float8_e4m3fn))
    with pytest.raises(ValueError, match="matrix"):
        float8_quantize(torch.ones(2))
    with pytest.raises(ValueError, match="codes must be a matrix"):
        float8_dequantize(torch.ones(2, 2), torch.ones(1))
    with pytest.raises(ValueError, match="at most 65504"):
        float8_quantize(torch.full((1, 2), 3e38), scale_dtype=torch.float16)


def test_both_codes_of_nan_are_found() -> None:
    assert not has_nan(codes_of(NUMBERS))
    assert has_nan(codes_of([0, 0x7F]))
    assert has_nan(codes_of([0, 0xFF]))


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", [None, (2, 2)])
def test_the_largest_number_of_a_type_does_not_become_infinity(
    dtype: torch.dtype, scale_dtype: torch.dtype, block: tuple[int, int] | None
) -> None:
    largest = torch.finfo(dtype).max
    weight = torch.tensor([[largest, 1.0], [-largest, 0.0]]).to(dtype)
    codes, scale = float8_quantize(weight, block=block, scale_dtype=scale_dtype)
    restored = float8_dequantize(codes, scale, block=block, dtype=dtype)
    assert codes[:, 0].float().tolist() == [448, -448]
    assert restored.isfinite().all()
    assert (restored[:, 0].abs().double() / largest).tolist() == pytest.approx([1, 1], rel=2**-7)
