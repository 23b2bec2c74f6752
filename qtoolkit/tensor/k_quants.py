"""Choose the levels of K-quants: a block of 256 weights has 8 or 16 groups, with scales that are multiples of one."""

from collections.abc import Callable

import torch
from torch import Tensor

from qtoolkit.tensor.block_grids import Levels, as_columns, as_stored, inverse_of
from qtoolkit.tensor.block_search import (
    largest_of,
    search_affine,
    search_by_sweeps,
    search_positive,
    search_symmetric,
)


def q2_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    """Choose the levels of Q2_K; see `BlockGrid.search`."""
    groups = as_columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    if importance is None:
        scales, minima = search_affine(groups, groups.abs(), 3, first=-0.5, step=0.1, steps=15, absolute=True)
        return _largest_levels(scales, minima, 16, 15)
    weights = importance * (blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
    weights = as_columns(weights.reshape(-1, 16))
    scales, minima = search_affine(groups, weights, 3, first=-0.9, step=0.05, steps=36)
    return _searched_levels(scales, minima, weights.sum(0), 16, 15)


def q4_q5_k(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Levels]:
    """Return the search of Q4_K or Q5_K."""
    most = (1 << bits) - 1
    first, steps = {4: (-1.0, 20), 5: (-0.5, 15)}[bits]

    def search(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
        groups = as_columns(blocks.reshape(-1, 32))  # [blocks, 256] -> [32, groups]
        if importance is None:
            weights = groups.square().mean(0).sqrt_() + groups.abs()
            scales, minima = search_affine(groups, weights, most, first=first, step=0.1, steps=steps, turns=3)
            return _largest_levels(scales, minima, 8, 63)
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
        weights = as_columns(weights.reshape(-1, 32))
        scales, minima = search_affine(groups, weights, most, first=-0.9, step=0.05, steps=36)
        return _searched_levels(scales, minima, weights.sum(0), 8, 63)

    return search


def q3_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    """Choose the levels of Q3_K; see `BlockGrid.search`."""
    groups = as_columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    if importance is None:
        _, scales = search_by_sweeps(groups, 4)
        multiples, scale = _signed_levels(scales, 32, 31)
    else:
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
        weights = as_columns(weights.reshape(-1, 16))
        _, scales = search_symmetric(groups, weights, 4)
        found, scale = search_symmetric(
            as_columns(scales.reshape(-1, 16)), as_columns(weights.sum(0).reshape(-1, 16)), 32
        )
        multiples = found.T
    return Levels(as_stored(scale) * multiples, None, (scale, (multiples + 32).to(torch.uint8)))


def q6_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    """Choose the levels of Q6_K; see `BlockGrid.search`."""
    groups = as_columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    weights = groups.square() if importance is None else as_columns(importance.reshape(-1, 16))
    _, scales = search_symmetric(groups, weights, 32)
    multiples, scale = _signed_levels(scales, 128, 127)
    return Levels(as_stored(scale) * multiples, None, (scale, multiples.to(torch.int8)))


def _largest_levels(scales: Tensor, minima: Tensor, groups: int, most: int) -> Levels:
    """Round scales and minima, [groups of all blocks], to multiples of a part of the largest of each block."""
    parts = []
    for numbers in (scales.reshape(-1, groups), minima.reshape(-1, groups)):  # [blocks, groups]
        largest = numbers.amax(1, keepdim=True).clamp_(min=0)
        inverse = torch.where(largest > 0, torch.tensor(float(most)) / largest, 0.0)
        parts.append(((largest / most)[:, 0], (numbers * inverse).round_().clamp_(0, most).to(torch.uint8)))
    return _affine_levels(parts[0][0], parts[1][0], parts[0][1], parts[1][1])


def _searched_levels(scales: Tensor, minima: Tensor, weights: Tensor, groups: int, most: int) -> Levels:
    """Round scales and minima to multiples of searched numbers, by the weights of the groups."""
    by_block = as_columns(weights.reshape(-1, groups))
    found = [search_positive(as_columns(numbers.reshape(-1, groups)), by_block, most) for numbers in (scales, minima)]
    (scale_codes, scale), (minimum_codes, minimum) = found
    return _affine_levels(scale, minimum, scale_codes.T.to(torch.uint8), minimum_codes.T.to(torch.uint8))


def _affine_levels(scale: Tensor, minimum: Tensor, scales: Tensor, minima: Tensor) -> Levels:
    """Return the levels of scales and minima, uint8 [blocks, groups], as multiples of one number each, [blocks]."""
    return Levels(as_stored(scale) * scales, as_stored(minimum) * minima, (scale, minimum, scales, minima))


def _signed_levels(scales: Tensor, half: int, most: int) -> tuple[Tensor, Tensor]:
    """Round scales of either sign to multiples -half..most of a number, float32 [blocks, 16] and [blocks]."""
    by_block = scales.reshape(-1, 16)
    largest = largest_of(by_block.T)
    inverse = torch.where(largest == 0, 0.0, torch.tensor(-float(half)) / largest)
    return (by_block * inverse[:, None]).round_().clamp_(-half, most), inverse_of(inverse)
