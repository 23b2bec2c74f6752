"""Whether two texts share passages, known from a few numbers of each, from which no text can be read."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Tokens of a passage: shorter ones are common to texts of one language.
_LENGTH = 16
# One passage in so many is kept, the same ones in every text (winnowing; Schleimer et al., SIGMOD 2003, section 2).
_EVERY = 64
# Multipliers of a polynomial hash, and of the mixing that decides which hashes are kept.
_BASE, _MIX = 6_364_136_223_846_793_005, 11_400_714_819_323_198_485


def sketch(tokens: "torch.Tensor") -> tuple[int, ...]:
    """Hashes of some passages of 16 tokens, sorted.

    Args:
        tokens: int64 [samples, seq_len].
    """
    import numpy as np

    rows = tokens.numpy().astype(np.uint64)
    places = rows.shape[1] - _LENGTH + 1
    if places < 1:
        return ()
    hashes = np.zeros((len(rows), places), np.uint64)
    for shift in range(_LENGTH):
        # Products wrap around at 64 bits.
        hashes = hashes * np.uint64(_BASE) + rows[:, shift : shift + places] + np.uint64(1)
    mixed = (hashes * np.uint64(_MIX)) >> np.uint64(32)
    return tuple(sorted({int(value) for value in mixed[mixed % np.uint64(_EVERY) == 0]}))


def overlap(text: Collection[int], other: Collection[int]) -> tuple[int, float]:
    """How many kept passages two texts share, and which share of those of the smaller one that is.

    Example: of two passages and of three, one is in both.

        >>> overlap((1, 2), (2, 3, 4))
        (1, 0.5)
    """
    common = len(set(text) & set(other))
    return common, common / min(len(set(text)), len(set(other))) if common else 0.0
