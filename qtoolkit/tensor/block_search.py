"""Find scales and minima of blocks, by the searches of llama.cpp (`ggml-quants.c`), many blocks at once.

All take values [n, blocks], a block a column, so that sums over a block run along whole rows, and return codes of that
shape and scales [blocks]. Rounding is to the nearest, halves to even, as llama.cpp's `nearest_int`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Below this, llama.cpp takes a block as zero.
_ZERO = 1e-15
# Codes that are tried at once, for all scales of some blocks: they stay in a core's own cache.
_CODES_AT_A_TIME = 80_000
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
    inverses = _counts(half, 0.1, (0, *range(-9, 0), *range(1, 10))).neg_()[:, None] / _divisor(largest_of(values))
    weighted = weights * values
    sums_lx, sums_l2 = torch.empty_like(inverses), torch.empty_like(inverses)
    for part, codes, product in _tried_codes(values, inverses, (-half, half - 1)):
        torch.sum(torch.mul(codes, weighted[:, None, part], out=product), 0, out=sums_lx[:, part])
        torch.sum(torch.mul(codes, weights[:, None, part], out=product).mul_(codes), 0, out=sums_l2[:, part])
    best_inverse, scale, best = inverses[0], *torch.zeros_like(values[:2])
    for inverse, sum_lx, sum_l2 in zip(inverses, sums_lx, sums_l2, strict=True):
        better = _mask(sum_lx * sum_lx > best * sum_l2)
        fitted = sum_lx / sum_l2
        best = _picked(better, fitted * sum_lx, best)
        best_inverse, scale = _picked(better, inverse, best_inverse), _picked(better, fitted, scale)
    return (values * best_inverse).round_().clamp_(-half, half - 1), scale


def search_by_sweeps(values: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Find codes -half..half-1 and the scale of each block, changing one code after the other; `make_q3_quants`.

    Errors are weighted by the squared values. Takes and returns what `search_symmetric` does.
    """
    largest = largest_of(values)
    zero = largest.abs() < _ZERO
    codes = (values * torch.where(zero, 0.0, torch.tensor(-float(half)) / largest)).round_().clamp_(-half, half - 1)
    sum_lx, sum_l2 = _swept(values, values * values, codes, (-half, half - 1))
    return codes, torch.where(sum_l2 > 0, sum_lx / sum_l2, 0.0)


def search_positive(values: Tensor, weights: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Find codes 0..most and the scale of each block of values that are not negative; `make_qp_quants`.

    Takes and returns what `search_symmetric` does.
    """
    largest = values.amax(0)
    zero = largest < _ZERO
    safe = torch.where(zero, 1.0, largest)
    counts = _counts(most, 0.1, range(-4, 5))
    best_inverse = counts[4] / safe
    best = _positive_error(values, weights, best_inverse, most)
    for count in (*counts[:4], *counts[5:]):
        inverse = count / safe
        error = _positive_error(values, weights, inverse, most)
        better = error < best
        best_inverse, best = torch.where(better, inverse, best_inverse), torch.where(better, error, best)
    codes = (values * best_inverse).round_().clamp_(max=most)
    sum_lx, sum_l2 = _swept(values, weights, codes, (0, most))
    return torch.where(zero, 0.0, codes), torch.where(zero | (sum_l2 <= 0), 0.0, sum_lx / sum_l2)


def search_affine(
    values: Tensor,
    weights: Tensor,
    most: int,
    *,
    first: float,
    step: float,
    steps: int,
    turns: int | None = None,
    absolute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Find scale and minimum of each block for codes 0..most, x = scale q - minimum, as `make_qkx3_quants` does.

    It rounds with `steps` + 1 finer and coarser steps, the first (most + first) / (max - min), and solves the weighted
    least squares of scale and minimum for the codes of each; the minimum is never above zero. Each starts from the best
    minimum of those before.

    Args:
        values, weights: as for `search_symmetric`.
        most: the largest code, 15 for 4 bits.
        first, step, steps: which steps are tried.
        turns: in which they are tried, each turn all over the range and at once, so that few start from a better
            minimum: sooner done, and of 4 bits and more as good. One after the other unless given, as by llama.cpp.
        absolute: compare sums of absolute errors, not of squared ones.

    Returns:
        Scales [blocks], and what is subtracted, zero or more, [blocks].
    """
    low, high = values.amin(0).clamp_(max=0), values.amax(0)
    flat = high <= low
    high = torch.where(flat, low + 1, high)
    inverse = torch.tensor(float(most)) / (high - low)
    scale = 1 / inverse
    codes = ((values - low) * inverse).round_().clamp_(0, most)
    saved = -_error(values, weights, codes, scale, low, absolute=absolute)
    sums = _AffineSums.of(values, weights)
    if not absolute:
        saved += sums.spread
    best = torch.stack([scale, low, saved])
    counts = _counts(most, step, range(steps + 1), first)[:, None]
    turns = turns or len(counts)
    for turn in range(turns):
        inverses = counts[turn::turns] / (high - best[1])
        tried = sums.fitted(values - best[1], inverses, most)
        if absolute:
            _tell_absolute_errors(values, weights, best[1], inverses, most, tried)
        for of_one in tried.unbind(1):
            # Of a block without weights, all this is no number.
            _take(best, of_one, of_one[2] > best[2])
    return torch.where(flat, 0.0, best[0]), torch.where(flat, -low, -best[1])


@dataclass(frozen=True)
class _AffineSums:
    """What the least squares of scale and minimum take of blocks, whatever their codes are.

    They are told around the mean, so that little is lost where a block's values are large and alike.

    Attributes:
        weights: float32 [n, blocks].
        weighted: weights times the values' distances from the mean, float32 [n, blocks].
        sum_w: of the weights, [blocks].
        mean: the weighted mean, [blocks].
        spread: the weighted squared error of the mean alone, [blocks].
    """

    weights: Tensor
    weighted: Tensor
    sum_w: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> "_AffineSums":
        """Sum over values [n, blocks]."""
        sum_w = weights.sum(0)
        mean = (weights * values).sum(0) / sum_w
        distances = values - mean
        weighted = weights * distances
        return cls(weights, weighted, sum_w, mean, distances.mul_(weighted).sum(0))

    def fitted(self, values: Tensor, inverses: Tensor, most: int) -> Tensor:
        """Fit scale and minimum to the codes 0..most of values [n, blocks] for each inverse, [tried, blocks].

        Returns:
            Scale, minimum and what they save of the mean's error, float32 [3, tried, blocks].
        """
        sum_xq, sum_q, sum_qq = torch.empty_like(inverses), torch.empty_like(inverses), torch.empty_like(inverses)
        for part, codes, product in _tried_codes(values, inverses, (0, most)):
            torch.sum(torch.mul(codes, self.weighted[:, None, part], out=product), 0, out=sum_xq[:, part])
            torch.sum(torch.mul(codes, self.weights[:, None, part], out=product), 0, out=sum_q[:, part])
            torch.sum(product.mul_(codes), 0, out=sum_qq[:, part])
        mean_code = sum_q / self.sum_w
        # Of codes that are all alike it is a rounding error, which nothing can be divided by.
        spread = torch.addcmul(sum_qq, sum_q, mean_code, value=-1).maximum(sum_qq * 1e-6)
        scale = sum_xq / spread
        fitted = torch.stack([scale, torch.addcmul(self.mean, scale, mean_code, value=-1), scale * sum_xq])
        above = fitted[1] > 0
        if above.any():
            # A minimum may not be: the scale is fitted alone.
            sum_lx = torch.addcmul(sum_xq, self.mean, sum_q)
            scale = sum_lx / sum_qq
            saved = scale * sum_lx - self.sum_w * self.mean.square()
            _take(fitted, torch.stack([scale, torch.zeros_like(scale), saved]), above)
        return fitted


def _tell_absolute_errors(
    values: Tensor, weights: Tensor, start: Tensor, inverses: Tensor, most: int, tried: Tensor
) -> None:
    """Put sums of absolute errors, negative, in the place of what scales and minima save, [3, tried, blocks]."""
    for part, codes, _ in _tried_codes(values - start, inverses, (0, most)):
        scale, minimum, saved = tried[..., part]
        codes = codes.mul_(scale).add_(minimum).sub_(values[:, None, part]).abs_()
        torch.neg(codes.mul_(weights[:, None, part]).sum(0), out=saved)


def _tried_codes(values: Tensor, inverses: Tensor, limits: tuple[int, int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield which blocks, their codes for each inverse of the scale, [n, tried, blocks], and a buffer of that shape.

    Args:
        values: float32 [n, blocks].
        inverses: float32 [tried, blocks].
        limits: the least and the largest code.
    """
    at_once = max(64, _CODES_AT_A_TIME // (len(values) * len(inverses)) // 64 * 64)
    buffers = values.new_empty(2, len(values), len(inverses), at_once)
    for first in range(0, values.shape[1], at_once):
        part = slice(first, first + at_once)
        inverse = inverses[:, part]
        codes, product = buffers[..., : inverse.shape[1]]
        torch.mul(values[:, None, part], inverse, out=codes).round_().clamp_(*limits)
        yield part, codes, product


class Codebook:
    """Whole numbers that codes stand for, and the one next to a value: by a table, a tenth of the time of a search.

    Args:
        levels: the numbers, ascending.
        device: on which values are looked up.
    """

    def __init__(self, levels: Sequence[int], device: torch.device) -> None:
        numbers = torch.tensor(levels, dtype=torch.float32, device=device)
        self.first = float(levels[0])
        # Halfway between two of them is a multiple of 1/2: from one of those to the next, the code is the same.
        places = torch.arange(2 * levels[0], 2 * levels[-1] + 1, device=device)
        self._codes = torch.bucketize(places / 2, (numbers[1:] + numbers[:-1]) / 2, right=True).to(torch.uint8)
        self._levels = numbers[self._codes.long()]

    def codes(self, values: Tensor) -> Tensor:
        """Return the codes of the levels next to values, uint8 of their shape; of two as near, the upper."""
        return self._codes.index_select(0, self._place(values.clone())).view(values.shape)

    def nearest(self, values: Tensor) -> Tensor:
        """Return the levels next to values, float32 of their shape; the values are overwritten."""
        return self._levels.index_select(0, self._place(values)).view(values.shape)

    def _place(self, values: Tensor) -> Tensor:
        """Return where in the tables values stand, int32 [values]; they are overwritten."""
        # Rounded down before the sum, which would be rounded to the nearest.
        places = values.mul_(2).floor_().sub_(2 * self.first).clamp_(0, len(self._levels) - 1)
        return places.to(torch.int32).flatten()


def search_in_codebook(values: Tensor, weights: Tensor, codebook: Codebook) -> Tensor:
    """Find for each block the scale with the smallest weighted error of levels, as `quantize_row_iq4_nl_impl` does.

    It tries 16 steps: the one that takes the largest value to the magnitude of the first level, and those around that
    which takes it to the first level; and fits the scale to the levels of each.

    Args:
        values, weights: as for `search_symmetric`.
        codebook: the numbers that a code stands for, the first the largest in magnitude.

    Returns:
        Scales float32 [blocks], of either sign; 0 for a block of zeros.
    """
    largest = _divisor(largest_of(values))
    weighted = weights * values
    places, product = torch.empty_like(values), torch.empty_like(values)
    scale, best = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for target in (torch.tensor(-codebook.first), *_counts(codebook.first, 1.0, range(-7, 8))):
        nearest = codebook.nearest(torch.mul(values, target / largest, out=places))
        sum_lx = torch.mul(weighted, nearest, out=product).sum(0)
        sum_l2 = torch.mul(weights, nearest, out=product).mul_(nearest).sum(0)
        better = _mask((sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2))
        fitted = sum_lx / sum_l2
        scale, best = _picked(better, fitted, scale), _picked(better, fitted * sum_lx, best)
    return scale


def largest_of(values: Tensor) -> Tensor:
    """Return the value of the largest magnitude of each block, with its sign; the first of several."""
    high, low = values.amax(0), values.amin(0)
    largest = torch.where(high > -low, high, low)
    # Only here does it matter which is the first, which takes torch thirty times as long to find.
    alike = (high == -low).nonzero()[:, 0]
    if len(alike):
        some = values.index_select(1, alike)
        largest[alike] = some.gather(0, some.abs().argmax(0, keepdim=True))[0]
    return largest


def _counts(most: float, step: float, indices: Sequence[int], first: float = 0.0) -> Tensor:
    """Return `most` + `first` + `step` * index, float32, as llama.cpp has them by its own roundings: 30.5 is a tie.

    Each is a tensor without dimensions, since torch divides other numbers by tensors in two roundings.
    """
    steps = torch.tensor(indices, dtype=torch.float32).mul_(step)
    return steps.add_(first).add_(most)


def _divisor(largest: Tensor) -> Tensor:
    """Return the largest values of blocks, infinite for a block that is taken as zero: all its codes become 0."""
    return torch.where(largest.abs() < _ZERO, torch.inf, largest)


def _mask(chosen: Tensor) -> Tensor:
    """Return what `_picked` takes, all bits set where a number is chosen: `torch.where` takes ten times as long."""
    return chosen.to(torch.int32).neg_()


def _picked(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new numbers where the mask is set and the old ones elsewhere, float32."""
    bits = old.view(torch.int32)
    return (new.view(torch.int32) ^ bits).bitwise_and_(mask).bitwise_xor_(bits).view(torch.float32)


def _take(best: Tensor, tried: Tensor, chosen: Tensor) -> None:
    """Replace the chosen columns of `best` by those of `tried`, both float32 [numbers, blocks]."""
    bits = best.view(torch.int32)
    bits.bitwise_xor_((tried.view(torch.int32) ^ bits).bitwise_and_(_mask(chosen)))


def _error(values: Tensor, weights: Tensor, codes: Tensor, scale: Tensor, minimum: Tensor, *, absolute: bool) -> Tensor:
    """Return the weighted error of each block, whose codes are overwritten."""
    difference = codes.mul_(scale).add_(minimum).sub_(values)
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
    weighted = weights * values
    sum_lx, sum_l2 = (weighted * codes).sum(0), (weights * codes).mul_(codes).sum(0)
    for _ in range(_SWEEPS):
        changed = torch.zeros_like(sum_l2, dtype=torch.int32)
        for value, weight, product, code in zip(values, weights, weighted, codes, strict=True):
            without_lx, without_l2 = sum_lx - product * code, sum_l2 - (weight * code).mul_(code)
            # No number where the sums are not above zero: such codes stay as they are.
            new = (value * without_l2).div_(without_lx).round_().clamp_(*limits)
            with_lx, with_l2 = without_lx + product * new, without_l2 + (weight * new).mul_(new)
            gains = (with_lx * with_lx).mul_(sum_l2) > (sum_lx * sum_lx).mul_(with_l2)
            better = _mask((without_lx > 0) & (without_l2 > 0) & (new != code) & gains)
            code.copy_(_picked(better, new, code))
            sum_lx, sum_l2 = _picked(better, with_lx, sum_lx), _picked(better, with_l2, sum_l2)
            changed |= better
        if not changed.any():
            break
    return sum_lx, sum_l2
