"""Hold the levels that a search has chosen for blocks of weights, so that their codes can be chosen by any rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """What the codes of blocks stand for: step * (code - zero) - minimum, a step and a minimum for each group.

    Attributes:
        step: float32 [blocks, groups], as the file holds it; 0 for groups whose codes count for nothing.
        minimum: float32 [blocks, groups]; None for types without.
        stored: the numbers that are packed beside the codes, each [blocks, ...].
    """

    step: Tensor
    minimum: Tensor | None
    stored: tuple[Tensor, ...]

    @classmethod
    def joined(cls, parts: Sequence["Levels"]) -> "Levels":
        """Return the levels of blocks that were searched part by part."""
        minima = [part.minimum for part in parts if part.minimum is not None]
        return cls(
            torch.cat([part.step for part in parts]),
            torch.cat(minima) if minima else None,
            tuple(map(torch.cat, zip(*(part.stored for part in parts), strict=True))),
        )


@dataclass(frozen=True)
class BlockGrid:
    """How a type chooses the levels of its blocks, and stores codes of them.

    Attributes:
        bits: of a code.
        zero: the code of zero, where there is no minimum.
        search: takes what `BlockType.quantize` takes, always with importance, and returns the levels.
        pack: takes `Levels.stored` and codes uint8 [blocks, block_size]; returns uint8 [blocks, block_bytes].
        codebook: the whole numbers that stand in the place of code - zero where these are not evenly spaced.
    """

    bits: int
    zero: int
    search: Callable[[Tensor, Tensor, Tensor], Levels]
    pack: Callable[[tuple[Tensor, ...], Tensor], Tensor]
    codebook: tuple[int, ...] = ()

    def nearest(self, blocks: Tensor, levels: Levels) -> Tensor:
        """Take the code next to each weight of blocks [blocks, block_size], and pack; uint8 [blocks, block_bytes].

        For evenly spaced levels.

        Example: step 2, minimum 1, so that the levels are -1, 1, 3, 5; 1.7 is nearest to 1, the code 1.
        """
        groups = blocks.unflatten(1, (levels.step.shape[1], -1))  # [blocks, block_size] -> [blocks, groups, weights]
        if levels.minimum is not None:
            groups = groups + levels.minimum[:, :, None]
        codes = (groups / torch.where(levels.step == 0, 1.0, levels.step)[:, :, None]).round_()
        codes = codes.clamp_(-self.zero, 2**self.bits - 1 - self.zero).add_(self.zero)
        return self.pack(levels.stored, codes.to(torch.uint8).flatten(1))


def as_stored(numbers: Tensor) -> Tensor:
    """Return numbers [blocks] as float16 holds them, float32 [blocks, 1]."""
    return numbers.to(torch.float16).float().unsqueeze(1)


def inverse_of(numbers: Tensor) -> Tensor:
    """Return 1 / number, 0 for 0."""
    return torch.where(numbers == 0, 0.0, 1 / numbers)


def as_columns(blocks: Tensor) -> Tensor:
    """Return [blocks, n] as [n, blocks], laid out so."""
    return blocks.T.contiguous()
