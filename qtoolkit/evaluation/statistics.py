"""Compute figures of a text with standard errors over its windows, as the tokens of one window are not independent.

The windows are the sample. A figure's standard error is how far it would vary with other windows of the same text; it
says nothing about other texts.
"""

import math
from typing import NamedTuple

import torch

# Draws of the bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, section 6.4: 200 are enough).
_DRAWS = 200


class Figure(NamedTuple):
    """Hold a value and its standard error, which is None for a single window."""

    value: float
    error: float | None


def mean(values: torch.Tensor, windows: torch.Tensor) -> Figure:
    """Compute the mean over all tokens.

    The error is that of a ratio, sum of values over number of tokens, of which both vary from window to window
    (Cochran, Sampling Techniques, section 2.11): sqrt(W / (W - 1) * sum over windows of (s - m * n)^2) / N.

    Args:
        values: one for each token [tokens].
        windows: the index of each token's window, int64 [tokens], from 0 on.

    Example: two windows of one token each, 1 and 3: the mean is 2, and its error sqrt(2 * (1 + 1)) / 2 = 1.

        >>> mean(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
        Figure(value=2.0, error=1.0)
    """
    values = values.double()
    count = int(windows.max()) + 1
    value = values.mean()
    rest = torch.zeros(count, dtype=torch.float64).index_add_(0, windows, values - value)  # [windows]
    if count < 2:
        return Figure(value.item(), None)
    error = (rest.square().sum() * count / (count - 1)).sqrt() / len(values)
    return Figure(value.item(), error.item())


def perplexity(nll: torch.Tensor, windows: torch.Tensor) -> Figure:
    """Compute perplexity, exp of the mean of `nll`; to first order, its error is perplexity times that of the mean."""
    value, error = mean(nll, windows)
    result = torch.tensor(value).double().exp().item()
    return Figure(result, None if error is None else result * error)


def root_mean_square(values: torch.Tensor, windows: torch.Tensor) -> Figure:
    """Compute the root of the mean square; its error to first order is that of the mean square over twice the root."""
    value, error = mean(values.square(), windows)
    root = value**0.5
    return Figure(root, None if error is None else error / (2 * root) if root else 0.0)


def quantile(values: torch.Tensor, windows: torch.Tensor, share: float) -> Figure:
    """Compute the value below which a share of the tokens lies, and its error by a bootstrap over windows (seed 0).

    200 times, as many windows as there are, are drawn with replacement. Tokens are sorted once: in a draw, each counts
    as often as its window was drawn, so that the quantile is read off a running count.

    Args:
        values: one for each token [tokens].
        windows: the index of each token's window, int64 [tokens], from 0 on.
        share: between 0 and 1; between two tokens, it is interpolated linearly.

    Example: of 0, 1, 2, 3, the median lies halfway between 1 and 2.

        >>> quantile(torch.arange(4.0), torch.zeros(4, dtype=torch.int64), 0.5)
        Figure(value=1.5, error=None)
    """
    ordered, order = values.double().sort()
    owner = windows[order]
    count = int(windows.max()) + 1
    value = _weighted_quantile(ordered, torch.ones_like(owner), share)
    if count < 2:
        return Figure(value.item(), None)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (_DRAWS, count), generator=generator)  # [draws, windows]
    quantiles = [_weighted_quantile(ordered, row.bincount(minlength=count)[owner], share) for row in drawn]
    return Figure(value.item(), torch.stack(quantiles).std().item())


def _weighted_quantile(ordered: torch.Tensor, times: torch.Tensor, share: float) -> torch.Tensor:
    """Compute the quantile of sorted values that each count so many times."""
    until = times.cumsum(0)
    place = share * (int(until[-1]) - 1)
    below = int(place)
    # The two values beside the place, if each stood there as often as it counts.
    at = torch.searchsorted(until, torch.tensor([below, math.ceil(place)]), right=True)
    low, high = ordered[at]
    return torch.lerp(low, high, place - below)
