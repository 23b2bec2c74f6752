"""Quantize rows of weights into the block types of llama.cpp, as its own quantizer does (`ggml_quantize_chunk`).

A block of 32 weights has a scale of its own, and a minimum in some types. A K-quant has 256: its 8 or 16 groups have
scales (and minima) of 4 to 8 bits, multiples of one 16-bit number. Without importance the result is that of llama.cpp's
`quantize_row_*_ref`, with it that of `quantize_row_*_impl`, up to the order in which sums are added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from qtoolkit.tensor.block_packing import pack_iq4_xs, pack_plain, pack_q2, pack_q3, pack_q4_q5, pack_q6
from qtoolkit.tensor.block_search import (
    Codebook,
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
    """

    name: str
    number: int
    block_size: int
    block_bytes: int
    quantize: Callable[[Tensor, Tensor | None, Tensor], Tensor]

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
    columns = weight.shape[-1]
    per_row = columns // type_.block_size
    if importance is not None:
        # A power of two changes no result, and keeps products of the searches within float32.
        importance = importance.float()
        importance = importance * 2.0 ** -torch.frexp(importance.max()).exponent.clamp(min=-126).item()
    packed = torch.empty((weight.shape[0], per_row * type_.block_bytes), dtype=torch.uint8, device=weight.device)
    rows = max(1, _AT_A_TIME // columns)
    for part in range(ceil(weight.shape[0] / rows)):
        values = weight[part * rows : (part + 1) * rows].float()
        count = values.shape[0]
        square = values.square().mean(1, keepdim=True).repeat_interleave(per_row, 0)
        blocks = values.reshape(-1, type_.block_size)  # [rows, in] -> [blocks, block_size]
        weights = None if importance is None else importance.expand(count, -1).reshape(blocks.shape)
        packed[part * rows : part * rows + count] = type_.quantize(blocks, weights, square).reshape(count, -1)
    return packed


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
            weights = importance * (square + blocks.square()).sqrt_()
            found, scale = search_symmetric(_columns(blocks), _columns(weights), half)
            codes = found.T + half
        return pack_plain((scale,), codes.to(torch.uint8), bits)

    return quantize


def _with_minimum(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_1 or Q5_1."""
    most = (1 << bits) - 1

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        if importance is None:
            low = blocks.amin(1, keepdim=True)
            scale = (blocks.amax(1, keepdim=True) - low) / most
            codes = ((blocks - low) * _inverse(scale) + 0.5).clamp_(max=most)
            return pack_plain((scale[:, 0], low[:, 0]), codes.to(torch.uint8), bits)
        weights = importance * (square + blocks.square()).sqrt_()
        found, fitted, minimum = search_affine(
            _columns(blocks), _columns(weights), most, first=-0.9, step=0.05, steps=36
        )
        return pack_plain((fitted, -minimum), found.T.to(torch.uint8), bits)

    return quantize


def _q2_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    groups = _columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    if importance is None:
        _, scales, minima = search_affine(groups, groups.abs(), 3, first=-0.5, step=0.1, steps=15, absolute=True)
        levels = _largest_levels(scales, minima, 16, 15)
    else:
        weights = importance * (blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
        weights = _columns(weights.reshape(-1, 16))
        _, scales, minima = search_affine(groups, weights, 3, first=-0.9, step=0.05, steps=36)
        levels = _searched_levels(scales, minima, weights.sum(0), 16, 15)
    codes = _affine_codes(blocks, levels, 3)
    return pack_q2(levels.scale, levels.minimum, levels.scales, levels.minima, codes)


def _q4_q5_k(bits: int) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    """Return what quantizes into Q4_K or Q5_K."""
    most = (1 << bits) - 1
    first, steps = {4: (-1.0, 20), 5: (-0.5, 15)}[bits]

    def quantize(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
        groups = _columns(blocks.reshape(-1, 32))  # [blocks, 256] -> [32, groups]
        if importance is None:
            weights = groups.square().mean(0).sqrt_() + groups.abs()
            _, scales, minima = search_affine(groups, weights, most, first=first, step=0.1, steps=steps)
            levels = _largest_levels(scales, minima, 8, 63)
        else:
            weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
            weights = _columns(weights.reshape(-1, 32))
            _, scales, minima = search_affine(groups, weights, most, first=-0.9, step=0.05, steps=36)
            levels = _searched_levels(scales, minima, weights.sum(0), 8, 63)
        codes = _affine_codes(blocks, levels, most)
        return pack_q4_q5(levels.scale, levels.minimum, levels.scales, levels.minima, codes, bits)

    return quantize


def _q3_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
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
    codes = _signed_codes(blocks, scale, multiples, 4)
    return pack_q3(scale, (multiples + 32).to(torch.uint8), codes)


def _q6_k(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    groups = _columns(blocks.reshape(-1, 16))  # [blocks, 256] -> [16, groups]
    weights = groups.square() if importance is None else _columns(importance.reshape(-1, 16))
    _, scales = search_symmetric(groups, weights, 32)
    multiples, scale = _signed_levels(scales, 128, 127)
    codes = _signed_codes(blocks, scale, multiples, 32)
    return pack_q6(scale, multiples.to(torch.int8), codes)


def _iq4_nl(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    scale, codebook = _codebook_scales(blocks, importance)
    return pack_plain((scale,), codebook.codes(blocks * _inverse(scale[:, None])), 4)


def _iq4_xs(blocks: Tensor, importance: Tensor | None, _square: Tensor) -> Tensor:
    scales, codebook = _codebook_scales(blocks, importance)
    by_block = scales.reshape(-1, 8)
    scale = largest_of(by_block.T) / -32
    multiples = (by_block * _inverse(scale[:, None])).round_().clamp_(-32, 31)
    groups = blocks.unflatten(1, (8, 32))  # [blocks, 256] -> [blocks, groups, weights]
    codes = codebook.codes(groups * _inverse(scale[:, None] * multiples)[:, :, None])
    return pack_iq4_xs(scale, (multiples + 32).to(torch.uint8), codes.flatten(1))


def _codebook_scales(blocks: Tensor, importance: Tensor | None) -> tuple[Tensor, Codebook]:
    """Return the scale of each 32 weights, [groups of all blocks], and what codes stand for."""
    if importance is None:
        weights = blocks.square()
    else:
        weights = importance * (2 * blocks.square().mean(1, keepdim=True) + blocks.square()).sqrt_()
    codebook = Codebook(_LEVELS, blocks.device)
    return search_in_codebook(_columns(blocks.reshape(-1, 32)), _columns(weights.reshape(-1, 32)), codebook), codebook


@dataclass(frozen=True)
class _Levels:
    """Scales and minima of groups, uint8 [blocks, groups], as multiples of one number each, float32 [blocks]."""

    scale: Tensor
    minimum: Tensor
    scales: Tensor
    minima: Tensor


def _largest_levels(scales: Tensor, minima: Tensor, groups: int, most: int) -> _Levels:
    """Round scales and minima, [groups of all blocks], to multiples of a part of the largest of each block."""
    parts = []
    for numbers in (scales.reshape(-1, groups), minima.reshape(-1, groups)):  # [blocks, groups]
        largest = numbers.amax(1, keepdim=True).clamp_(min=0)
        inverse = torch.where(largest > 0, torch.tensor(float(most)) / largest, 0.0)
        parts.append(((largest / most)[:, 0], (numbers * inverse).round_().clamp_(0, most).to(torch.uint8)))
    return _Levels(parts[0][0], parts[1][0], parts[0][1], parts[1][1])


def _searched_levels(scales: Tensor, minima: Tensor, weights: Tensor, groups: int, most: int) -> _Levels:
    """Round scales and minima to multiples of searched numbers, by the weights of the groups."""
    by_block = _columns(weights.reshape(-1, groups))
    found = [search_positive(_columns(numbers.reshape(-1, groups)), by_block, most) for numbers in (scales, minima)]
    (scale_codes, scale), (minimum_codes, minimum) = found
    return _Levels(scale, minimum, scale_codes.T.to(torch.uint8), minimum_codes.T.to(torch.uint8))


def _signed_levels(scales: Tensor, half: int, most: int) -> tuple[Tensor, Tensor]:
    """Round scales of either sign to multiples -half..most of a number, float32 [blocks, 16] and [blocks]."""
    by_block = scales.reshape(-1, 16)
    largest = largest_of(by_block.T)
    inverse = torch.where(largest == 0, 0.0, torch.tensor(-float(half)) / largest)
    return (by_block * inverse[:, None]).round_().clamp_(-half, most), _inverse(inverse)


def _affine_codes(blocks: Tensor, levels: _Levels, most: int) -> Tensor:
    """Round weights by the scales and minima that are stored, uint8 [blocks, 256]."""
    count = levels.scales.shape[1]
    scale = _as_stored(levels.scale) * levels.scales
    minimum = _as_stored(levels.minimum) * levels.minima
    groups = blocks.unflatten(1, (count, -1))  # [blocks, 256] -> [blocks, groups, weights]
    codes = (groups + minimum[:, :, None]) / torch.where(scale == 0, 1.0, scale)[:, :, None]
    rounded: Tensor = codes.round_().clamp_(0, most).to(torch.uint8)
    return rounded.flatten(1)


def _signed_codes(blocks: Tensor, scale: Tensor, multiples: Tensor, half: int) -> Tensor:
    """Round weights by the scales that are stored, uint8 [blocks, 256], with zero at `half`."""
    stored = _as_stored(scale) * multiples
    groups = blocks.unflatten(1, (16, 16))  # [blocks, 256] -> [blocks, groups, weights]
    codes = (groups / torch.where(stored == 0, 1.0, stored)[:, :, None]).round_().clamp_(-half, half - 1)
    rounded: Tensor = (codes + half).to(torch.uint8)
    return rounded.flatten(1)


def _as_stored(numbers: Tensor) -> Tensor:
    """Return numbers [blocks] as float16 holds them, float32 [blocks, 1]."""
    return numbers.to(torch.float16).float().unsqueeze(1)


def _inverse(numbers: Tensor) -> Tensor:
    """Return 1 / number, 0 for 0."""
    return torch.where(numbers == 0, 0.0, 1 / numbers)


def _columns(blocks: Tensor) -> Tensor:
    """Return [blocks, n] as [n, blocks], laid out so."""
    return blocks.T.contiguous()


BLOCK_TYPES = {
    type_.name: type_
    for type_ in (
        BlockType("F32", 0, 1, 4, _float_bytes(torch.float32)),
        BlockType("F16", 1, 1, 2, _float_bytes(torch.float16)),
        BlockType("Q4_0", 2, 32, 18, _signed(4)),
        BlockType("Q4_1", 3, 32, 20, _with_minimum(4)),
        BlockType("Q5_0", 6, 32, 22, _signed(5)),
        BlockType("Q5_1", 7, 32, 24, _with_minimum(5)),
        BlockType("Q8_0", 8, 32, 34, _q8_0),
        BlockType("Q2_K", 10, 256, 84, _q2_k),
        BlockType("Q3_K", 11, 256, 110, _q3_k),
        BlockType("Q4_K", 12, 256, 144, _q4_q5_k(4)),
        BlockType("Q5_K", 13, 256, 176, _q4_q5_k(5)),
        BlockType("Q6_K", 14, 256, 210, _q6_k),
        BlockType("IQ4_NL", 20, 32, 18, _iq4_nl),
        BlockType("IQ4_XS", 23, 256, 136, _iq4_xs),
        BlockType("BF16", 30, 1, 2, _float_bytes(torch.bfloat16)),
    )
}
