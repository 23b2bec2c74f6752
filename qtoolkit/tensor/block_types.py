"""Quantize rows of weights into the block types of llama.cpp, as its own quantizer does (`ggml_quantize_chunk`).

A block of 32 weights has a scale of its own, and a minimum in some types. A K-quant has 256: its 8 or 16 groups have
scales (and minima) of 4 to 8 bits, multiples of one 16-bit number. Without importance the result is that of llama.cpp's
`quantize_row_*_ref`, with it that of `quantize_row_*_impl`, up to the order in which sums are added. Of Q4_K and
Q5_K without importance, scales are found in fewer turns, with errors as small.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from qtoolkit.tensor.block_grids import BlockGrid, Levels
from qtoolkit.tensor.block_packing import pack_iq4_xs, pack_plain, pack_q2, pack_q3, pack_q4_q5, pack_q6, to_half
from qtoolkit.tensor.codebook_blocks import LEVELS, iq4_nl, iq4_nl_levels, iq4_xs, iq4_xs_levels
from qtoolkit.tensor.k_quants import q2_k, q3_k, q4_q5_k, q6_k
from qtoolkit.tensor.plain_blocks import grid_with_minimum, q8_0, signed, signed_grid, with_minimum

# Weights that are quantized at a time: temporaries stay in a processor's cache.
_AT_A_TIME = 1 << 18


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
        grid: the levels of its codes; None where nothing is rounded, or too little to matter.
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
    levels = []
    for part in _parts(weight, type_, importance):
        assert part.importance is not None
        levels.append(type_.grid.search(part.blocks, part.importance, part.square))
    return Levels.joined(levels)


class _Part(NamedTuple):
    """Some rows of a matrix as blocks, and what `BlockType.quantize` takes beside them."""

    blocks: Tensor
    importance: Tensor | None
    square: Tensor


def _parts(weight: Tensor, type_: BlockType, importance: Tensor | None) -> Iterator[_Part]:
    """Yield so many rows at a time that temporaries stay in a processor's cache."""
    columns = weight.shape[-1]
    if importance is not None:
        # A power of two changes no result, and keeps products of the searches within float32.
        importance = importance.float()
        importance = importance * 2.0 ** -torch.frexp(importance.max()).exponent.clamp(min=-126).item()
    for rows in weight.split(max(1, _AT_A_TIME // columns)):
        values = rows.float()
        square = values.square().mean(1, keepdim=True).repeat_interleave(columns // type_.block_size, 0)
        blocks = values.reshape(-1, type_.block_size)  # [rows, in] -> [blocks, block_size]
        weights = None if importance is None else importance.expand(len(values), -1).reshape(blocks.shape)
        yield _Part(blocks, weights, square)


def _float_bytes(dtype: torch.dtype) -> Callable[[Tensor, Tensor | None, Tensor], Tensor]:
    def convert(blocks: Tensor, _importance: Tensor | None, _square: Tensor) -> Tensor:
        return (to_half(blocks) if dtype == torch.float16 else blocks.to(dtype)).view(torch.uint8)

    return convert


def _k_quant(
    name: str,
    number: int,
    block_bytes: int,
    *,
    bits: int,
    zero: int,
    search: Callable[[Tensor, Tensor | None, Tensor], Levels],
    pack: Callable[[tuple[Tensor, ...], Tensor], Tensor],
) -> BlockType:
    """Return a type with blocks of 256 whose weights become the codes next to them; see `BlockType` and `BlockGrid`."""
    grid = BlockGrid(bits, zero, search, pack)

    def quantize(blocks: Tensor, importance: Tensor | None, square: Tensor) -> Tensor:
        return grid.nearest(blocks, search(blocks, importance, square))

    return BlockType(name, number, 256, block_bytes, quantize, grid)


BLOCK_TYPES = {
    type_.name: type_
    for type_ in (
        BlockType("F32", 0, 1, 4, _float_bytes(torch.float32)),
        BlockType("F16", 1, 1, 2, _float_bytes(torch.float16)),
        BlockType("Q4_0", 2, 32, 18, signed(4), signed_grid(4)),
        BlockType("Q4_1", 3, 32, 20, with_minimum(4), grid_with_minimum(4)),
        BlockType("Q5_0", 6, 32, 22, signed(5), signed_grid(5)),
        BlockType("Q5_1", 7, 32, 24, with_minimum(5), grid_with_minimum(5)),
        BlockType("Q8_0", 8, 32, 34, q8_0),
        _k_quant("Q2_K", 10, 84, bits=2, zero=0, search=q2_k, pack=pack_q2),
        _k_quant("Q3_K", 11, 110, bits=3, zero=4, search=q3_k, pack=pack_q3),
        _k_quant("Q4_K", 12, 144, bits=4, zero=0, search=q4_q5_k(4), pack=partial(pack_q4_q5, bits=4)),
        _k_quant("Q5_K", 13, 176, bits=5, zero=0, search=q4_q5_k(5), pack=partial(pack_q4_q5, bits=5)),
        _k_quant("Q6_K", 14, 210, bits=6, zero=32, search=q6_k, pack=pack_q6),
        BlockType("IQ4_NL", 20, 32, 18, iq4_nl, BlockGrid(4, 0, iq4_nl_levels, partial(pack_plain, bits=4), LEVELS)),
        BlockType("IQ4_XS", 23, 256, 136, iq4_xs, BlockGrid(4, 0, iq4_xs_levels, pack_iq4_xs, LEVELS)),
        BlockType("BF16", 30, 1, 2, _float_bytes(torch.bfloat16)),
    )
}
