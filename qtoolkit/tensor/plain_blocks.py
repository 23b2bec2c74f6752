"""Quantize into the blocks of 32 weights of llama.cpp's oldest types: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from qtoolkit.tensor.block_grids import BlockGrid, Levels, as_columns, as_stored, inverse_of
from qtoolkit.tensor.block_packing import pack_plain
from qtoolkit.tensor.block_search import largest_of, search_affine, search_symmetric


def q8_0(blocks: Tensor, _importance: Tensor | None, _square: Tensor) -> Tensor:
    """Round to -127..127, halves away from zero."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * inverse_of(scale)
    whole = scaled.abs().floor()
    codes = (whole + ((scaled.abs() - whole) >= 0.5)) * scaled.sign()
    return pack_plain((scale[:, 0],), codes.to(torch.int8).view(torch.uint8), 8)


def signed(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_0 or Q5_0: the largest weight becomes the smallest code."""
    half = 1 << (bits - 1)

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        if importance is None:
            scale = largest_of(blocks.T) / -half
            codes = (blocks * inverse_of(scale[:, None]) + (half + 0.5)).clamp_(max=2 * half - 1)
        else:
            found, scale = _searched_signed(blocks, importance, square, half)
            codes = found.T + half
        return pack_plain((scale,), codes.to(torch.uint8), bits)

    return quantize


def signed_grid(bits: int) -> BlockGrid:
    """Return the levels of Q4_0 or Q5_0."""
    half = 1 << (bits - 1)

    def search(blocks: Tensor, importance: Tensor, square: Tensor) -> Levels:
        _, scale = _searched_signed(blocks, importance, square, half)
        return Levels(as_stored(scale), None, (scale,))

    return BlockGrid(bits, half, search, partial(pack_plain, bits=bits))


def _searched_signed(blocks: Tensor, importance: Tensor, square: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Return codes [32, blocks] and scales [blocks], see `search_symmetric`."""
    weights = importance * (square + blocks.square()).sqrt_()
    return search_symmetric(as_columns(blocks), as_columns(weights), half)


def with_minimum(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_1 or Q5_1."""
    most, grid = (1 << bits) - 1, grid_with_minimum(bits)

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        if importance is None:
            low = blocks.amin(1, keepdim=True)
            scale = (blocks.amax(1, keepdim=True) - low) / most
            codes = ((blocks - low) * inverse_of(scale) + 0.5).clamp_(max=most)
            return pack_plain((scale[:, 0], low[:, 0]), codes.to(torch.uint8), bits)
        return grid.nearest(blocks, grid.search(blocks, importance, square))

    return quantize


def grid_with_minimum(bits: int) -> BlockGrid:
    """Return the levels of Q4_1 or Q5_1."""

    def search(blocks: Tensor, importance: Tensor, square: Tensor) -> Levels:
        weights = importance * (square + blocks.square()).sqrt_()
        columns, weights = as_columns(blocks), as_columns(weights)
        scale, minimum = search_affine(columns, weights, (1 << bits) - 1, first=-0.9, step=0.05, steps=36)
        return Levels(as_stored(scale), as_stored(minimum), (scale, -minimum))

    return BlockGrid(bits, 0, search, partial(pack_plain, bits=bits))
