"""Search the scale and the zero point of each group of weights for the least error of the layer's outputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Weights that are searched at one time. On a CPU temporaries stay in a core's cache, and are too small for torch to
# share among threads, whose synchronization would take longer than the arithmetic; on a GPU few large kernels are
# fastest, and temporaries take 100 MB.
_CHUNK_CPU = 2**18
_CHUNK_GPU = 2**22


@dataclass(frozen=True)
class QParams:
    """The scales and zero points of a weight's groups: w = (code - zero_point) * scale, code from 0 to 2**bits - 1.

    Attributes:
        scale: float32 [groups, out], of either sign, rounded to numbers that float16 holds.
        zero_point: float32 [groups, out], whole numbers; 2**(bits - 1) everywhere when symmetric.
        bits: size of a code.
        largest: the largest magnitude that a code may stand for.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    bits: int
    largest: float = math.inf


def search_qparams(
    weight: torch.Tensor,
    importance: torch.Tensor,
    *,
    bits: int,
    group_size: int,
    sym: bool,
    full_range: bool,
    steps: int,
    smallest: float,
    largest: float = math.inf,
) -> QParams:
    """Choose each group's scale among shrunken ranges by the weighted error sum_k h_k (w_k - q_k)^2.

    Candidates are the range of the group's values times `smallest` to 1, in `steps` equal steps. With the diagonal of
    the Hessian as weights, this is the error of the outputs without compensation between columns (OBS, diagonal H).

    Symmetric codes reach further to one side: with 4 bits, from -8 to 7 times the scale. With `full_range` each
    candidate is tried with both signs, so that the longer side can lie where the group's largest weight is, as in
    GGUF's Q4_0 and in AutoRound (docs/full_range_sym.md); at a tie the positive scale stays.

    Args:
        weight: W^T float32 [in, out].
        importance: h, the Hessian's diagonal, [in], not negative.
        bits: size of a code.
        group_size: inputs that share a scale; divides `in`.
        sym: zero point fixed in the middle; otherwise one within 1 to 2**bits - 1, so that AutoGPTQ's format, which
            stores it less one, holds it.
        full_range: whether symmetric scales may be negative. They are then rounded to 8 significant bits, so that
            readers in float16 and in bfloat16 multiply with the same number. Without effect on asymmetric ones.
        steps: candidates for each scale.
        smallest: the smallest candidate as a share of the full range.
        largest: the largest number of the type in which weights are restored. No code stands for more: the range of a
            group whose weights come near it is a step smaller.

    Raises:
        ValueError: weights so large that their scales exceed float16.

    Example: two weights of one group, the second without importance: the scale fits the first alone.

        >>> w, h = torch.tensor([[0.3], [1.4]]), torch.tensor([1.0, 0.0])
        >>> qparams = search_qparams(w, h, bits=4, group_size=2, sym=True, full_range=False, steps=100, smallest=0.2)
        >>> abs(0.3 / qparams.scale.item() - round(0.3 / qparams.scale.item())) < 0.02
        True
    """
    size = weight.abs().amax().item() if weight.numel() else 0.0
    most = torch.finfo(torch.float16).max
    if size > most * (2 ** (bits - 1) if sym else 2**bits - 1):
        raise ValueError(f"weights up to {size:.3g} need scales beyond those of float16, at most {most:.6g}")
    # A group's range is at most twice its largest weight, and a code exceeds it by half a step at most.
    limit = largest if 4 * size > largest else math.inf
    in_features, out_features = weight.shape
    groups = in_features // group_size
    scale = weight.new_empty(groups, out_features)
    zero_point = torch.empty_like(scale)
    # [in, out] -> [groups, group_size, out] -> [group_size, groups, out]
    grouped = weight.view(groups, group_size, out_features).transpose(0, 1)
    # [in] -> [groups, group_size] -> [group_size, groups, 1]
    h = importance.view(groups, group_size).T[..., None].to(weight.dtype)
    h = torch.where(h.sum(0) > 0, h, 1)
    for together, outputs in _parts(groups, group_size, out_features, on_gpu=weight.is_cuda):
        part, weights = grouped[:, together, outputs], h[:, together]
        if sym and full_range:
            found = _search_both_signs(part, weights, bits=bits, steps=steps, smallest=smallest, largest=limit)
        else:
            found = _search_group(part, weights, bits=bits, sym=sym, steps=steps, smallest=smallest, largest=limit)
        scale[together, outputs], zero_point[together, outputs] = found
    return QParams(scale, zero_point, bits, largest)


def _parts(groups: int, group_size: int, out_features: int, *, on_gpu: bool) -> Iterator[tuple[slice, slice]]:
    """Return the groups and outputs that are searched at one time: one group on a CPU, many on a GPU."""
    chunk = _CHUNK_GPU if on_gpu else _CHUNK_CPU
    together = max(1, chunk // (group_size * out_features)) if on_gpu else 1
    width = max(1, chunk // (group_size * together))
    for first in range(0, groups, together):
        for start in range(0, out_features, width):
            yield slice(first, first + together), slice(start, start + width)


def raised_groups(weight: torch.Tensor, *, bits: int, group_size: int, sym: bool) -> torch.Tensor:
    """Count the groups of each output whose weights are finer than float16's smallest normal number as a scale.

    Their scale is raised to it, so that they get fewer levels than their bits allow. Groups of zeros lose nothing.

    Args:
        weight, bits, group_size, sym: as for `search_qparams`.

    Returns:
        int64 [out].
    """
    # [in, out] -> [groups, group_size, out]
    grouped = weight.reshape(-1, group_size, weight.shape[1])
    if sym:
        levels, size = 2 ** (bits - 1), grouped.abs().amax(1)
    else:
        levels, size = 2**bits - 1, grouped.amax(1).clamp(min=0) - grouped.amin(1).clamp(max=0)
    raised: torch.Tensor = (size > 0) & (size < levels * torch.finfo(torch.float16).tiny)  # [groups, out]
    return raised.sum(0)


def stored_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return scales rounded to float16, as the file holds them, in their own type; never 0 and never infinite."""
    limits = torch.finfo(torch.float16)
    return scale.clamp(limits.tiny, limits.max).to(torch.float16).to(scale.dtype)


def _within(scale: torch.Tensor, level: torch.Tensor | float, largest: float, significant: int) -> torch.Tensor:
    """Lower the scales with which `level` would stand for more than `largest`, to numbers of so many significant bits.

    Args:
        scale: positive, rounded.
        level: the largest magnitude that a scale is multiplied with.
        largest: what no product may exceed.
        significant: bits that the type of the scales has: 11 for float16.
    """
    if largest == math.inf:
        return scale
    limit = torch.full_like(scale, largest, dtype=torch.float64) / level
    fraction, exponent = torch.frexp(limit)
    lowered = torch.ldexp((fraction * 2**significant).floor(), exponent - significant).to(scale.dtype)
    return torch.minimum(scale, lowered)


def shared_scale(scale: torch.Tensor) -> torch.Tensor:
    """Return scales rounded to numbers that float16 and bfloat16 both hold, with their signs, in their own type.

    These are the numbers of 8 significant bits from 2**-14 to 65280; smaller and larger ones become the nearest of
    them, and 0 the smallest.

        >>> shared_scale(torch.tensor([0.1, -0.1, 0.0])).tolist()
        [0.10009765625, -0.10009765625, 6.103515625e-05]
    """
    size = scale.abs().clamp(torch.finfo(torch.float16).tiny, 65280).to(torch.bfloat16).to(scale.dtype)
    return torch.where(scale < 0, -size, size)


def _search_both_signs(
    w: torch.Tensor, h: torch.Tensor, *, bits: int, steps: int, smallest: float, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale, of either sign, and zero point [groups, outputs] as `_search_group` does."""
    middle = float(2 ** (bits - 1))
    full = w.abs().amax(0).clamp_(min=1e-10) / (middle - 0.5)
    best = torch.full_like(full, torch.inf)
    best_scale = _within(shared_scale(full), middle, largest, 8)
    levels = torch.empty_like(w)
    q = torch.empty_like(w)
    for step in range(steps):
        s = shared_scale(full * (1 - (1 - smallest) * step / max(1, steps - 1)))
        s = _within(s, middle, largest, 8)
        torch.mul(w, 1 / s, out=levels).round_()
        # Codes -middle to middle - 1 times -s are the same values as these levels times s.
        for low, high, signed in ((-middle, middle - 1, s), (1 - middle, middle, -s)):
            torch.clamp(levels, low, high, out=q)
            total = torch.addcmul(w, q, s, value=-1, out=q).square_().mul_(h).sum(0)
            better = total < best
            best = torch.where(better, total, best)
            best_scale = torch.where(better, signed, best_scale)
    return best_scale, torch.full_like(full, middle)


def _search_group(
    w: torch.Tensor, h: torch.Tensor, *, bits: int, sym: bool, steps: int, smallest: float, largest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point [groups, outputs] of groups w[group_size, groups, outputs].

    Their importance is h[group_size, groups, 1].
    """
    highest = float(2**bits - 1)
    middle = float(2 ** (bits - 1))
    low = w.amin(0).clamp_(max=0)
    # A group of zeros has any scale.
    if sym:
        full = w.abs().amax(0).clamp_(min=1e-10) / (middle - 0.5)
    else:
        full = (w.amax(0).clamp_(min=0) - low).clamp_(min=1e-10) / highest
    best = torch.full_like(full, torch.inf)
    best_scale = _within(stored_scale(full), middle if sym else highest, largest, 11)
    best_zero = torch.full_like(full, middle if sym else 1)
    q = torch.empty_like(w)
    error = torch.empty_like(w)
    for step in range(steps):
        share = 1 - (1 - smallest) * step / max(1, steps - 1)
        s = stored_scale(full * share)
        if sym:
            zero = best_zero
            s = _within(s, middle, largest, 11)
            torch.mul(w, 1 / s, out=q).round_().clamp_(-middle, middle - 1)
        else:
            zero = (-low * share / s).round_().clamp_(1, highest)
            s = _within(s, torch.maximum(zero, highest - zero), largest, 11)
            torch.addcmul(zero, w, 1 / s, out=q).round_().clamp_(0, highest).sub_(zero)
        torch.addcmul(w, q, s, value=-1, out=error).square_().mul_(h)
        total = error.sum(0)
        better = total < best
        best = torch.where(better, total, best)
        best_scale = torch.where(better, s, best_scale)
        best_zero = torch.where(better, zero, best_zero)
    return best_scale, best_zero
