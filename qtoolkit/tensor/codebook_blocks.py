"""Quantize into IQ4_NL and IQ4_XS, whose codes stand for unevenly spaced numbers."""

import torch
from torch import Tensor

from qtoolkit.tensor.block_grids import Levels, as_columns, as_stored, inverse_of
from qtoolkit.tensor.block_packing import pack_iq4_xs, pack_plain
from qtoolkit.tensor.block_search import Codebook, largest_of, search_in_codebook

# What the codes stand for, `kvalues_iq4nl`: closer to one another around zero.
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    """Quantize; see `BlockType.quantize`."""
    scale = _scales(blocks, importance)
    codes = Codebook(LEVELS, blocks.device).codes(blocks * inverse_of(scale[:, None]))
    return pack_plain((scale,), codes, 4)


def iq4_nl_levels(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    """Choose the scales alone; see `BlockGrid.search`."""
    scale = _scales(blocks, importance)
    return Levels(as_stored(scale), None, (scale,))


def iq4_xs(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    """Quantize; see `BlockType.quantize`."""
    scale, multiples = _scale_and_multiples(blocks, importance)
    groups = blocks.unflatten(1, (8, 32))  # [blocks, 256] -> [blocks, groups, weights]
    codes = Codebook(LEVELS, blocks.device).codes(groups * inverse_of(scale[:, None] * multiples)[:, :, None])
    return pack_iq4_xs((scale, (multiples + 32).to(torch.uint8)), codes.flatten(1))


def iq4_xs_levels(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    """Choose the scales alone; see `BlockGrid.search`."""
    scale, multiples = _scale_and_multiples(blocks, importance)
    return Levels(as_stored(scale) * multiples, None, (scale, (multiples + 32).to(torch.uint8)))


def _scale_and_multiples(blocks: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the number of each block, [blocks], and its multiples -32..31, the scales of 32 weights, [blocks, 8]."""
    by_block = _scales(blocks, importance).reshape(-1, 8)
    scale = largest_of(by_block.T) / -32
    return scale, (by_block * inverse_of(scale[:, None])).round_().clamp_(-32, 31)


def _scales(blocks: Tensor, importance: Tensor | None) -> Tensor:
    """Return the scale of each 32 weights, [groups of all blocks]."""
    if importance is None:
        weights = blocks.square()
    else:
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
    groups, weights = as_columns(blocks.reshape(-1, 32)), as_columns(weights.reshape(-1, 32))
    return search_in_codebook(groups, weights, Codebook(LEVELS, blocks.device))
