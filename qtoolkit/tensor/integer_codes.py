"""Quantize numbers to integer codes by absmax and zero-point (LLM.int8(), arXiv 2208.07339, section 2).

Each group along the last dimension has a scale: x[..., group_size] has scales [..., 1].
"""

import torch

# A signed integer type of the same size as each type that scales are stored in.
_BITS_OF = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def code_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """Return the smallest and the largest code of a scheme, both included.

    | bits | symmetric (absmax) | zero-point |
    |---|---|---|
    | 8 | -127 to 127 | -127 to 127 |
    | 4 | -7 to 7 | -8 to 7 |

    Absmax codes are symmetric around 0, so that 0.0 has code 0, and x and -x have opposite codes. Zero-point could use
    one code more. With 8 bits it is 1 of 256, for a step finer by 0.4 %: the paper and the examples in textbooks omit
    it. With 4 bits it is 1 of 16, for a step finer by 7 %, and it is used.

    Raises:
        ValueError: bits other than 8 and 4.
    """
    if bits not in (8, 4):
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    q_max = 2 ** (bits - 1) - 1
    return (-q_max if symmetric or bits == 8 else -q_max - 1), q_max


def absmax_quantize(
    x: torch.Tensor, bits: int, *, full_range: bool = False, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize symmetrically: scale = max|x| / q_max, q = clamp(round(x / scale), -q_max, q_max), x ~ q * scale.

    Computed in float32. The scale is rounded to its stored type before the codes are computed with it, so that the
    stored numbers alone reproduce the result. It is rounded upwards, so that no value exceeds the range of the codes:
    the error of every value is at most scale / 2. A group of zeros has scale 1. Where the largest code
    would then stand for infinity in the type of x, the scale is that of the type's maximum, rounded downwards.

    With `full_range`, the value m of largest magnitude gets the code -q_max - 1, which the formula above leaves unused:
    scale = m / (-q_max - 1), of either sign, as in GGUF's Q4_0. The step is finer, by an eighth with 4 bits. A value
    beyond q_max steps on the other side is clamped: its error is at most |scale|.

    In addition to x, results and temporaries take at most 5 bytes per value and 20 per group.

    Args:
        x: [..., group_size], finite.
        bits: 8 or 4; q_max is 127 or 7.
        full_range: whether the code -q_max - 1 is used too.
        scale_dtype: float32, float16 or bfloat16.

    Returns:
        codes int8 [..., group_size] and scale [..., 1], positive unless `full_range`.

    Raises:
        ValueError: NaN or infinity in x, or a scale too large for `scale_dtype`.

    Example: max|x| is 2.54, so the scale is 2.54 / 127 = 0.02.

        >>> codes, scale = absmax_quantize(torch.tensor([1.0, -2.54, 0.035]), 8)
        >>> codes.tolist(), round(scale.item(), 6)
        ([50, -127, 2], 0.02)
        >>> [round(value, 4) for value in (codes * scale).tolist()]
        [1.0, -2.54, 0.04]

    Full range with 4 bits: the largest magnitude is 1.6, so the scale is 1.6 / -8 = -0.2.

        >>> codes, scale = absmax_quantize(torch.tensor([1.6, -1.0, 0.3]), 4, full_range=True)
        >>> codes.tolist(), round(scale.item(), 6)
        ([-8, 5, -2], -0.2)
    """
    q_min, q_max = code_range(bits, symmetric=True)
    low, high = extremes(x)
    size = torch.maximum(-low, high)
    if full_range:
        q_min -= 1
        scale = within(rounded_up(size / -q_min, scale_dtype), -q_min, x.dtype)
        scale = torch.where(high > -low, -scale, scale)
    else:
        scale = within(rounded_up(size / q_max, scale_dtype), q_max, x.dtype)
    return _encode(x, scale, None, q_min, q_max), scale


def zero_point_quantize(
    x: torch.Tensor, q_min: int, q_max: int, *, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize asymmetrically with scale s = (r_max - r_min) / (q_max - q_min) and zero point z.

    z = round(q_min - r_min / s), q = clamp(round(x / s + z), q_min, q_max), x ~ (q - z) * s.

    [r_min, r_max] is the range of the values and 0: then z lies within [q_min, q_max], and 0.0 is restored exactly.
    Because z is an integer, the ends of the range may exceed the codes by up to half a step, where they are clamped:
    the error of every value is still at most s / 2. Where an end would stand for infinity in the type of x, s is
    lowered (`within`): the error is then at most s, and the rounding of s. Type of arithmetic and scales as in
    `absmax_quantize`.

    Args:
        x: [..., group_size], finite.
        q_min: the smallest code, at least -128.
        q_max: the largest code, at most 127; both are from `code_range`.
        scale_dtype: float32, float16 or bfloat16.

    Returns:
        codes int8 [..., group_size], scale s [..., 1], and zero point z int8 [..., 1].

    Raises:
        ValueError: NaN or infinity in x, q_min and q_max that are no range of int8, or a scale too large for
            `scale_dtype`.

    Example: s = 2 / 254 = 0.007874 and z = -127 + 1 / s = 0, so 0.3 / s = 38.1 becomes 38.

        >>> codes, scale, zero_point = zero_point_quantize(torch.tensor([-1.0, 0.3, 1.0]), -127, 127)
        >>> codes.tolist(), zero_point.item()
        ([-127, 38, 127], 0)
        >>> round(((codes - zero_point) * scale)[1].item(), 4)
        0.2992
    """
    if not -128 <= q_min < q_max <= 127:
        raise ValueError(f"codes must be a range within [-128, 127], got [{q_min}, {q_max}]")
    low, high = extremes(x)
    low, high = low.clamp(max=0), high.clamp(min=0)
    exact = (high - low) / (q_max - q_min)
    scale = rounded_up(exact, scale_dtype)
    zero_point = (q_min - low / scale).round_()
    beyond = _beyond(scale, torch.maximum(q_max - zero_point, zero_point - q_min), x.dtype)
    if beyond.any():
        scale = torch.where(beyond, _rounded_down(exact, scale_dtype), scale)
        # That of the exact scale: what the lowered one cannot reach is shared by both ends.
        zero_point = torch.where(beyond, (q_min - low / exact).round_(), zero_point)
        scale = within(scale, torch.maximum(q_max - zero_point, zero_point - q_min), x.dtype)
    zero_point = zero_point.to(torch.int8)
    return _encode(x, scale, zero_point, q_min, q_max), scale, zero_point


def extremes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smallest and the largest value of each group x[..., group_size], float64 [..., 1].

    Raises:
        ValueError: NaN or infinity.
    """
    # torch.aminmax would read x once instead of twice, but is not vectorized on CPU: 10 to 40 times slower.
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    # Both propagate NaN, so that x itself need not be checked.
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError(f"values must be finite, got NaN or infinity in a tensor of shape {list(x.shape)}")
    return low.double(), high.double()


def rounded_up(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round scales float64, not negative, upwards to the type in which they are stored; 0 becomes 1.

    Args:
        scale: of any shape.
        dtype: float32, float16 or bfloat16.

    Raises:
        ValueError: a scale too large for the type.
    """
    stored = torch.where(scale == 0, 1.0, scale).to(dtype)
    # The next larger positive float is the next larger integer with the same bits.
    stored = (stored.view(_BITS_OF[dtype]) + (stored.double() < scale)).view(dtype)
    if not torch.isfinite(stored).all():
        limit = torch.finfo(dtype).max
        raise ValueError(f"scales must fit {dtype}, at most {limit:.6g}, got {scale.max().item():.6g}")
    return stored


def within(scale: torch.Tensor, level: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Lower the scales with which `level` would be infinite in `dtype`; the others stay as they are.

    The product is taken in float32 and rounded once, as kernels do. A scale rounded upwards, or a zero point rounded to
    an integer, may carry a value near the type's maximum beyond it: the scale becomes maximum / level, rounded down.

    Args:
        scale: float32, float16 or bfloat16, positive.
        level: the largest magnitude that a scale is multiplied with, positive; a number or as many as scales.
        dtype: type of the values.

    Example: 65504 / 7 = 9357.7 lies between 9344 and 9408 of bfloat16, and 7 * 9408 = 65856 is beyond float16.

        >>> within(torch.tensor([9408.0, 2.0], dtype=torch.bfloat16), 7, torch.float16).tolist()
        [9344.0, 2.0]
    """
    beyond = _beyond(scale, level, dtype)
    if not beyond.any():
        return scale
    highest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    lowered = _rounded_down(torch.full_like(scale, highest, dtype=torch.float64) / level, scale.dtype)
    return torch.where(beyond, lowered, scale)


def _beyond(scale: torch.Tensor, level: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """Return where level * scale, in float32 and rounded once, is infinite in `dtype`."""
    return (scale.float() * level).to(dtype).isinf()


def _rounded_down(scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round scales float64, not negative, downwards to a type; what is below its smallest number becomes 0."""
    stored = scale.to(dtype)
    bits = _BITS_OF[dtype]
    # The next smaller positive float is the next smaller integer with the same bits.
    return (stored.view(bits) - (stored.double() > scale).to(bits)).view(dtype)


def _encode(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, q_min: int, q_max: int
) -> torch.Tensor:
    """Return round(x / scale + zero_point) clamped to [q_min, q_max], int8."""
    # One copy, changed in place: dividing mixed types would make another on a CPU.
    codes = x.to(torch.float32, copy=True).div_(scale.float())
    if zero_point is not None:
        codes.add_(zero_point.to(codes.dtype))
    return codes.round_().clamp_(q_min, q_max).to(torch.int8)
