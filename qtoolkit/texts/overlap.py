"""Find out whether two texts share passages from a few hashes of each, which do not reveal the texts."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Tokens of a passage: shorter passages occur in many texts of a language.
_LENGTH = 16
# A sketch holds the hash of one passage in so many, the same in every text (Schleimer et al., SIGMOD 2003, section 2).
_EVERY = 64
# Multipliers of a polynomial hash, and of the mixing that selects the hashes.
_BASE = 6_364_136_223_846_793_005
_MIX = 11_400_714_819_323_198_485


def sketch(tokens: "torch.Tensor") -> tuple[int, ...]:
    """Return sorted hashes of some passages of 16 tokens.

    Args:
        tokens: int64 [samples, seq_len].
    """
    import numpy as np

    rows = tokens.numpy().astype(np.uint64)
    passages = rows.shape[1] - _LENGTH + 1
    if passages < 1:
        return ()
    hashes = np.zeros((len(rows), passages), np.uint64)
    for shift in range(_LENGTH):
        # Products wrap around at 64 bits.
        hashes = hashes * np.uint64(_BASE) + rows[:, shift : shift + passages] + np.uint64(1)
    mixed = (hashes * np.uint64(_MIX)) >> np.uint64(32)
    return tuple(sorted({int(value) for value in mixed[mixed % np.uint64(_EVERY) == 0]}))


def overlap(text: Collection[int], other: Collection[int]) -> tuple[int, float]:
    """Count the passages that two sketches have in common, and divide by those of the smaller sketch.

    Example: of two passages and of three, one is in both.

        >>> overlap((1, 2), (2, 3, 4))
        (1, 0.5)
    """
    common = len(set(text) & set(other))
    return common, common / min(len(set(text)), len(set(other))) if common else 0.0
