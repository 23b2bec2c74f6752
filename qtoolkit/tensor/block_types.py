"""Quantize rows of weights into the block types of llama.cpp, as its own quantizer does (`ggml_quantize_chunk`).

A block of 32 weights has a scale of its own, and a minimum in some types. A K-quant has 256: its 8 or 16 groups have
scales (and minima) of 4 to 8 bits, multiples of one 16-bit number. Without importance the result is that of llama.cpp's
`quantize_row_*_ref`, with it that of `quantize_row_*_impl`, up to the order in which sums are added.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qtoolkit.tensor.block_grids import BlockGrid, Levels, as_stored
from qtoolkit.tensor.block_packing import pack_iq4_xs, pack_plain, pack_q2, pack_q3, pack_q4_q5, pack_q6
from qtoolkit.tensor.block_search import (
    codes_in_codebook,
    largest_of,
    search_affine,
    search_by_sweeps,
    search_in_codebook,
    search_positive,
    search_symmetric,
)

# Weights that are quantized at a time: temporaries stay in a processor's cache.
_AT_A_TIME = 1 << 18
# What the codes of IQ4_NL and IQ4_XS stand for, `kvalues_iq4nl`: closer to one another around zero.
_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class BlockType:
    """One type of tensors in a `.gguf` file.

    Attributes:
        name: "Q4_K".
        number: of the type in the file, `enum ggml_type`.
        block_size: weights of a block.
        block_bytes: bytes of a block.
        quantize: takes weights [blocks, block_size] float32, importance of the same shape or None, and the mean square
            of each block's row, [blocks, 1]; returns uint8 [blocks, block_bytes].
        grid: the levels of its codes; None where they are not evenly spaced, or nothing is rounded.
    """

    name: str
    number: int
    block_size: int
    block_bytes: int
    quantize: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    grid: BlockGrid | None = None

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of this shape, whose rows are whole blocks."""
        return torch.Size(shape).numel() // self.block_size * self.block_bytes


def quantize_rows(weight: Tensor, type_: BlockType, importance: Tensor | None = None) -> Tensor:
    """Quantize a matrix row by row.

    Args:
        weight: W[out, in] of any floating type, finite; `in` is a multiple of the block size.
        type_: the type of the blocks.
        importance: of the inputs, float32 [in], such as the mean squares of a calibration text; None for all alike.

    Returns:
        uint8 [out, bytes of a row].

    Raises:
        ValueError: the rows do not divide into blocks.
    """
    if weight.shape[-1] % type_.block_size:
        raise ValueError(f"rows of {weight.shape[-1]} do not divide into blocks of {type_.block_size} of {type_.name}")
    row_bytes = type_.nbytes((weight.shape[-1],))
    packed = torch.empty((weight.shape[0], row_bytes), dtype=torch.uint8, device=weight.device)
    first = 0
    for part in _parts(weight, type_, importance):
        made = type_.quantize(part.blocks, part.importance, part.square).reshape(-1, row_bytes)
        packed[first : first + len(made)] = made
        first += len(made)
    return packed


def search_levels(weight: Tensor, type_: BlockType, importance: Tensor) -> Levels:
    """Choose the levels of a matrix, and no codes.

    Args:
        weight, type_, importance: as for `quantize_rows`; the type has a grid.

    Returns:
        Levels of its blocks, row after row.
    """
    assert type_.grid is not None
    parts = _parts(weight, type_, importance)
    return Levels.joined([type_.grid.search(part.blocks, part.importance, part.square) for part in parts])


class _Part(NamedTuple):
    """Some rows of a matrix as blocks, and what `BlockType.quantize` takes beside them."""

    blocks: Tensor
    importance: Tensor | None
    square: Tensor


def _parts(weight: Tensor, type_: BlockType, importance: Tensor | None) -> Iterator[_Part]:
    """Yield so many rows at a time that temporaries stay in a processor's cache."""
    columns = weight.shape[-1]
    for rows in weight.split(max(1, _AT_A_TIME // columns)):
        values = rows.float()
        square = values.square().mean(1, keepdim=True).repeat_interleave(columns // type_.block_size, 0)
        blocks = values.reshape(-1, type_.block_size)  # [rows, in] -> [blocks, block_size]
        weights = None if importance is None else importance.float().expand(len(values), -1).reshape(blocks.shape)
        yield _Part(blocks, weights, square)


def _float_bytes(dtype: torch.dtype) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    return lambda blocks, _importance, _square: blocks.to(dtype).view(torch.uint8)


def _q8_0(blocks: Tensor, _importance: Tensor | None, _square: Tensor) -> Tensor:
    """Round to -127..127, halves away from zero."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    whole = scaled.abs().floor()
    codes = (whole + ((scaled.abs() - whole) >= 0.5)) * scaled.sign()
    return pack_plain((scale[:, 0],), codes.to(torch.int8).view(torch.uint8), 8)


def _signed(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_0 or Q5_0: the largest weight becomes the smallest code."""
    half = 1 << (bits - 1)

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        if importance is None:
            scale = largest_of(blocks.T) / -half
            codes = (blocks * _inverse(scale[:, None]) + (half + 0.5)).clamp_(max=2 * half - 1)
        else:
            found, scale = _searched_signed(blocks, importance, square, half)
            codes = found.T + half
        return pack_plain((scale,), codes.to(torch.uint8), bits)

    return quantize


def _signed_grid(bits: int) -> BlockGrid:
    """Return the levels of Q4_0 or Q5_0."""
    half = 1 << (bits - 1)

    def search(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Levels:
        weights = torch.ones_like(blocks) if importance is None else importance
        _, scale = _searched_signed(blocks, weights, square, half)
        return Levels(as_stored(scale), None, (scale,))

    return BlockGrid(bits, half, search, partial(pack_plain, bits=bits))


def _searched_signed(blocks: Tensor, importance: Tensor, square: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Return codes [32, blocks] and scales [blocks], see `search_symmetric`."""
    weights = importance * (square + blocks.square()).sqrt_()
    return search_symmetric(_columns(blocks), _columns(weights), half)


def _with_minimum(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_1 or Q5_1."""
    most = (1 << bits) - 1

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        if importance is None:
            low = blocks.amin(1, keepdim=True)
            scale = (blocks.amax(1, keepdim=True) - low) / most
            codes = ((blocks - low) * _inverse(scale) + 0.5).clamp_(max=most)
            return pack_plain((scale[:, 0], low[:, 0]), codes.to(torch.uint8), bits)
        found, scale, minimum = _searched_affine(blocks, importance, square, most)
        return pack_plain((scale, -minimum), found.T.to(torch.uint8), bits)

    return quantize


def _grid_with_minimum(bits: int) -> BlockGrid:
    """Return the levels of Q4_1 or Q5_1."""

    def search(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Levels:
        weights = torch.ones_like(blocks) if importance is None else importance
        _, scale, minimum = _searched_affine(blocks, weights, square, (1 << bits) - 1)
        return Levels(as_stored(scale), as_stored(minimum), (scale, -minimum))

    return BlockGrid(bits, 0, search, partial(pack_plain, bits=bits))


def _searched_affine(blocks: Tensor, importance: Tensor, square: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes [32, blocks], scales and what is subtracted, [blocks], see `search_affine`."""
    weights = importance * (square + blocks.square()).sqrt_()
    return search_affine(_columns(blocks), _columns(weights), most, first=-0.9, step=0.05, steps=36)


def _q2_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    groups = _columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    if importance is None:
        _, scales, minima = search_affine(groups, groups.abs(), 3, first=-0.5, step=0.1, steps=15, absolute=True)
        return _largest_levels(scales, minima, 16, 15)
    weights = importance * (blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
    weights = _columns(weights.reshape(-1, 16))
    _, scales, minima = search_affine(groups, weights, 3, first=-0.9, step=0.05, steps=36)
    return _searched_levels(scales, minima, weights.sum(0), 16, 15)


def _q4_q5_k(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Levels]:
    """Return the search of Q4_K or Q5_K."""
    most = (1 << bits) - 1
    first, steps = {4: (-1.0, 20), 5: (-0.5, 15)}[bits]

    def search(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
        groups = _columns(blocks.reshape(-1, 32))  # [blocks, 256] -> [32, groups]
        if importance is None:
            weights = groups.square().mean(0).sqrt_() + groups.abs()
            _, scales, minima = search_affine(groups, weights, most, first=first, step=0.1, steps=steps)
            return _largest_levels(scales, minima, 8, 63)
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
        weights = _columns(weights.reshape(-1, 32))
        _, scales, minima = search_affine(groups, weights, most, first=-0.9, step=0.05, steps=36)
        return _searched_levels(scales, minima, weights.sum(0), 8, 63)

    return search


def _q3_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    groups = _columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    if importance is None:
        _, scales = search_by_sweeps(groups, 4)
        multiples, scale = _signed_levels(scales, 32, 31)
    else:
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
        weights = _columns(weights.reshape(-1, 16))
        _, scales = search_symmetric(groups, weights, 4)
        found, scale = search_symmetric(_columns(scales.reshape(-1, 16)), _columns(weights.sum(0).reshape(-1, 16)), 32)
        multiples = found.T
    return Levels(as_stored(scale) * multiples, None, (scale, (multiples + 32).to(torch.uint8)))


def _q6_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Levels:
    groups = _columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    weights = groups.square() if importance is None else _columns(importance.reshape(-1, 16))
    _, scales = search_symmetric(groups, weights, 32)
    multiples, scale = _signed_levels(scales, 128, 127)
    return Levels(as_stored(scale) * multiples, None, (scale, multiples.to(torch.int8)))


def _iq4_nl(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    scale, levels = _codebook_scales(blocks, importance)
    codes = codes_in_codebook(blocks * _inverse(scale[:, None]), levels)
    return pack_plain((scale,), codes.to(torch.uint8), 4)


def _iq4_xs(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    scales, levels = _codebook_scales(blocks, importance)
    by_block = scales.reshape(-1, 8)
    scale = largest_of(by_block.T) / -32
    multiples = (by_block * _inverse(scale[:, None])).round_().clamp_(-32, 31)
    groups = blocks.unflatten(1, (8, 32))  # [blocks, 256] -> [blocks, groups, weights]
    codes = codes_in_codebook(groups * _inverse(scale[:, None] * multiples)[:, :, None], levels)
    return pack_iq4_xs(scale, (multiples + 32).to(torch.uint8), codes.to(torch.uint8).flatten(1))


def _codebook_scales(blocks: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the scale of each 32 weights, [groups of all blocks], and the levels, float32 [16]."""
    if importance is None:
        weights = blocks.square()
    else:
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
    levels = torch.tensor(_LEVELS, dtype=torch.float32, device=blocks.device)
    return search_in_codebook(_columns(blocks.reshape(-1, 32)), _columns(weights.reshape(-1, 32)), levels), levels


def _largest_levels(scales: Tensor, minima: Tensor, groups: int, most: int) -> Levels:
    """Round scales and minima, [groups of all blocks], to multiples of a part of the largest of each block."""
    parts = []
    for numbers in (scales.reshape(-1, groups), minima.reshape(-1, groups)):  # [blocks, groups]
        largest = numbers.amax(1, keepdim=True).clamp_(min=0)
        inverse = torch.where(largest > 0, most / largest, 0.0)
        parts.append(((largest / most)[:, 0], (numbers * inverse).round_().clamp_(0, most).to(torch.uint8)))
    return _affine_levels(parts[0][0], parts[1][0], parts[0][1], parts[1][1])


def _searched_levels(scales: Tensor, minima: Tensor, weights: Tensor, groups: int, most: int) -> Levels:
    """Round scales and minima to multiples of searched numbers, by the weights of the groups."""
    by_block = _columns(weights.reshape(-1, groups))
    found = [search_positive(_columns(numbers.reshape(-1, groups)), by_block, most) for numbers in (scales, minima)]
    (scale_codes, scale), (minimum_codes, minimum) = found
    return _affine_levels(scale, minimum, scale_codes.T.to(torch.uint8), minimum_codes.T.to(torch.uint8))


def _affine_levels(scale: Tensor, minimum: Tensor, scales: Tensor, minima: Tensor) -> Levels:
    """Return the levels of scales and minima, uint8 [blocks, groups], as multiples of one number each, [blocks]."""
    return Levels(as_stored(scale) * scales, as_stored(minimum) * minima, (scale, minimum, scales, minima))


def _signed_levels(scales: Tensor, half: int, most: int) -> tuple[Tensor, Tensor]:
    """Round scales of either sign to multiples -half..most of a number, float32 [blocks, 16] and [blocks]."""
    by_block = scales.reshape(-1, 16)
    largest = largest_of(by_block.T)
    inverse = torch.where(largest == 0, 0.0, -half / largest)
    return (by_block * inverse[:, None]).round_().clamp_(-half, most), _inverse(inverse)


def _inverse(numbers: Tensor) -> Tensor:
    """Return 1 / number, 0 for 0."""
    return torch.where(numbers == 0, 0.0, 1 / numbers)


def _columns(blocks: Tensor) -> Tensor:
    """Return [blocks, n] as [n, blocks], laid out so."""
    return blocks.T.contiguous()


def _with_grid(name: str, number: int, block_bytes: int, grid: BlockGrid) -> BlockType:
    """Return a type with blocks of 256 whose weights become the codes next to them."""
    return BlockType(name, number, 256, block_bytes, grid.round, grid)


BLOCK_TYPES = {
    type_.name: type_
    for type_ in (
        BlockType("F32", 0, 1, 4, _float_bytes(torch.float32)),
        BlockType("F16", 1, 1, 2, _float_bytes(torch.float16)),
        BlockType("Q4_0", 2, 32, 18, _signed(4), _signed_grid(4)),
        BlockType("Q4_1", 3, 32, 20, _with_minimum(4), _grid_with_minimum(4)),
        BlockType("Q5_0", 6, 32, 22, _signed(5), _signed_grid(5)),
        BlockType("Q5_1", 7, 32, 24, _with_minimum(5), _grid_with_minimum(5)),
        BlockType("Q8_0", 8, 32, 34, _q8_0),
        _with_grid("Q2_K", 10, 84, BlockGrid(2, 0, _q2_k, pack_q2)),
        _with_grid("Q3_K", 11, 110, BlockGrid(3, 4, _q3_k, pack_q3)),
        _with_grid("Q4_K", 12, 144, BlockGrid(4, 0, _q4_q5_k(4), partial(pack_q4_q5, bits=4))),
        _with_grid("Q5_K", 13, 176, BlockGrid(5, 0, _q4_q5_k(5), partial(pack_q4_q5, bits=5))),
        _with_grid("Q6_K", 14, 210, BlockGrid(6, 32, _q6_k, pack_q6)),
        BlockType("IQ4_NL", 20, 32, 18, _iq4_nl),
        BlockType("IQ4_XS", 23, 256, 136, _iq4_xs),
        BlockType("BF16", 30, 1, 2, _float_bytes(torch.bfloat16)),
    )
}
