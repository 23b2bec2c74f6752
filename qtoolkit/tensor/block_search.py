"""Find scales and minima of blocks, by the searches of llama.cpp (`ggml-quants.c`), many blocks at once.

All take values [n, blocks], a block a column, so that sums over a block run along whole rows, and return codes of that
shape and scales [blocks]. Rounding is to the nearest, halves to even, as llama.cpp's `nearest_int`.
"""

import torch
from torch import Tensor

# Below this, llama.cpp takes a block as zero.
_ZERO = 1e-15
# Sweeps over the codes of a block, each code changed where that makes the error smaller.
_SWEEPS = 5


def search_symmetric(values: Tensor, weights: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Find for each block the scale with the smallest weighted error of codes -half..half-1; `make_qx_quants`.

    It tries 19 steps around the one that takes the largest value to -half, and fits the scale to the codes of each:
    scale = sum(w x q) / sum(w q q).

    Args:
        values: float32 [n, blocks].
        weights: of the squared errors, float32 [n, blocks].
        half: half the number of codes, 4 for 3 bits.

    Returns:
        Codes as float32 [n, blocks], scales float32 [blocks], of either sign.
    """
    largest = largest_of(values)
    zero = largest.abs() < _ZERO
    weighted = weights * values
    best_codes, scale, best = torch.empty(0), torch.empty(0), torch.empty(0)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = torch.where(zero, 0.0, -(half + 0.1 * step) / largest)
        codes = (values * inverse).round_().clamp_(-half, half - 1)
        sum_lx = (weighted * codes).sum(0)
        sum_l2 = (weights * codes).mul_(codes).sum(0)
        fitted = torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)
        if step == 0:
            best_codes, scale, best = codes, fitted, fitted * sum_lx
            continue
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        best_codes = torch.where(better, codes, best_codes)
        scale = torch.where(better, fitted, scale)
        best = torch.where(better, fitted * sum_lx, best)
    return best_codes, scale


def search_by_sweeps(values: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Find codes -half..half-1 and the scale of each block, changing one code after the other; `make_q3_quants`.

    Errors are weighted by the squared values. Takes and returns what `search_symmetric` does.
    """
    largest = largest_of(values)
    zero = largest.abs() < _ZERO
    codes = (values * torch.where(zero, 0.0, -half / largest)).round_().clamp_(-half, half - 1)
    sum_lx, sum_l2 = _swept(values, values * values, codes, (-half, half - 1))
    return codes, torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)


def search_positive(values: Tensor, weights: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Find codes 0..most and the scale of each block of values that are not negative; `make_qp_quants`.

    Takes and returns what `search_symmetric` does.
    """
    largest = values.amax(0)
    zero = largest < _ZERO
    safe = torch.where(zero, 1.0, largest)
    best_inverse = most / safe
    best = _positive_error(values, weights, best_inverse, most)
    for step in (*range(-4, 0), *range(1, 5)):
        inverse = (0.1 * step + most) / safe
        error = _positive_error(values, weights, inverse, most)
        better = error < best
        best_inverse, best = torch.where(better, inverse, best_inverse), torch.where(better, error, best)
    codes = (values * best_inverse).round_().clamp_(max=most)
    sum_lx, sum_l2 = _swept(values, weights, codes, (0, most))
    return torch.where(zero, 0.0, codes), torch.where(zero | (sum_l2 <= 0), 0.0, sum_lx / sum_l2)


def search_affine(
    values: Tensor, weights: Tensor, most: int, *, first: float, step: float, steps: int, absolute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Find codes 0..most, scale and minimum of each block: x = scale q - minimum; llama.cpp's `make_qkx3_quants`.

    It rounds with `steps` + 1 finer and coarser steps, the first (most + first) / (max - min), and solves the weighted
    least squares of scale and minimum for the codes of each; the minimum is never above zero.

    Args:
        values, weights: as for `search_symmetric`.
        most: the largest code, 15 for 4 bits.
        first, step, steps: which steps are tried.
        absolute: compare sums of absolute errors, not of squared ones.

    Returns:
        Codes [n, blocks], scales [blocks], and what is subtracted, zero or more, [blocks].
    """
    low, high = values.amin(0).clamp_(max=0), values.amax(0)
    flat = high <= low
    high = torch.where(flat, low + 1, high)
    weighted = weights * values
    sum_w, sum_x = weights.sum(0), weighted.sum(0)
    scale, minimum = (high - low) / most, low
    best_codes = ((values - low) * (most / (high - low))).round_().clamp_(0, most)
    best = _error(values, weights, best_codes, scale, minimum, absolute=absolute)
    for index in range(steps + 1):
        # From the best minimum so far.
        codes = ((values - minimum) * ((first + step * index + most) / (high - minimum))).round_().clamp_(0, most)
        sum_l, sum_lx = (weights * codes).sum(0), (weighted * codes).sum(0)
        sum_l2 = (weights * codes).mul_(codes).sum(0)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        solved = determinant > 0
        divisor = torch.where(solved, determinant, 1.0)
        fitted = (sum_w * sum_lx - sum_x * sum_l) / divisor
        offset = (sum_l2 * sum_x - sum_l * sum_lx) / divisor
        fitted = torch.where(offset > 0, sum_lx / sum_l2, fitted)
        offset = offset.clamp_(max=0)
        error = _error(values, weights, codes, fitted, offset, absolute=absolute)
        better = solved & (error < best)
        best_codes = torch.where(better, codes, best_codes)
        scale, minimum = torch.where(better, fitted, scale), torch.where(better, offset, minimum)
        best = torch.where(better, error, best)
    return torch.where(flat, 0.0, best_codes), torch.where(flat, 0.0, scale), torch.where(flat, -low, -minimum)


def search_in_codebook(values: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Find for each block the scale with the smallest weighted error of levels, as `quantize_row_iq4_nl_impl` does.

    It tries 16 steps: the one that takes the largest value to the magnitude of the first level, and those around that
    which takes it to the first level; and fits the scale to the levels of each.

    Args:
        values, weights: as for `search_symmetric`.
        levels: the numbers that a code stands for, float32, ascending, the first the largest in magnitude.

    Returns:
        Scales float32 [blocks], of either sign; 0 for a block of zeros.
    """
    largest = largest_of(values)
    zero = largest.abs() < _ZERO
    weighted = weights * values
    first = levels[0].item()
    scale, best = torch.zeros_like(largest), torch.zeros_like(largest)
    for target in (-first, *(first + step for step in range(-7, 8))):
        nearest = levels[codes_in_codebook(values * torch.where(zero, 0.0, target / largest), levels)]
        sum_lx = (weighted * nearest).sum(0)
        sum_l2 = (weights * nearest).mul_(nearest).sum(0)
        better = (sum_l2 > 0) & ((sum_lx * sum_lx > best * sum_l2) | (target == -first))
        scale = torch.where(better, sum_lx / sum_l2, scale)
        best = torch.where(better, scale * sum_lx, best)
    return torch.where(zero, 0.0, scale)


def codes_in_codebook(values: Tensor, levels: Tensor) -> Tensor:
    """Return the codes of the levels next to values, int32 of their shape; of two as near, the upper."""
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(values, middles, right=True, out_int32=True)


def largest_of(values: Tensor) -> Tensor:
    """Return the value of the largest magnitude of each block, with its sign; the first of several."""
    return values.gather(0, values.abs().argmax(0, keepdim=True))[0]


def _error(values: Tensor, weights: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor, *, absolute: bool) -> Tensor:
    """Return the weighted error of each block."""
    difference = (codes * scale).add_(minimum).sub_(values)
    return (difference.abs_() if absolute else difference.square_()).mul_(weights).sum(0)


def _positive_error(values: Tensor, weights: Tensor, inverse: Tensor, most: int) -> Tensor:
    """Return the weighted squared error of each block, rounded with this inverse of the scale."""
    codes = (values * inverse).round_().clamp_(max=most)
    return codes.mul_(1 / inverse).sub_(values).square_().mul_(weights).sum(0)


def _swept(values: Tensor, weights: Tensor, codes: Tensor, limits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Change codes in place, one after the other, where a scale fitted anew makes the weighted error smaller.

    The error of the best scale is sum(w x x) - sum(w x q)**2 / sum(w q q).

    Returns:
        The two sums, sum(w x q) and sum(w q q), of the changed codes.
    """
    sum_lx, sum_l2 = (weights * values * codes).sum(0), (weights * codes * codes).sum(0)
    for _ in range(_SWEEPS):
        changed = False
        for value, weight, code in zip(values, weights, codes, strict=True):
            without_lx, without_l2 = sum_lx - weight * value * code, sum_l2 - weight * code * code
            usable = (without_lx > 0) & (without_l2 > 0)
            new = (value * without_l2 / torch.where(usable, without_lx, 1.0)).round_().clamp_(*limits)
            with_lx, with_l2 = without_lx + weight * value * new, without_l2 + weight * new * new
            better = usable & (new != code) & (with_lx * with_lx * sum_l2 > sum_lx * sum_lx * with_l2)
            code.copy_(torch.where(better, new, code))
            sum_lx, sum_l2 = torch.where(better, with_lx, sum_lx), torch.where(better, with_l2, sum_l2)
            changed = changed or bool(better.any())
        if not changed:
            break
    return sum_lx, sum_l2
