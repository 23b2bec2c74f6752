"""Store codes that were chosen elsewhere in the block types of `.gguf` files: none of them is rounded.

A block holds 32 codes q and a scale d in float16. It stands for d * (q - 8) in Q4_0, d * (q - 16) in Q5_0, d * q of
signed bytes in Q8_0, and, with a minimum m in float16, d * q + m in Q4_1 and Q5_1 (llama.cpp, ggml-quants.c,
`dequantize_row_*`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qtoolkit.tensor.block_packing import pack_plain

# Weights of a block.
BLOCK_SIZE = 32


@dataclass(frozen=True)
class BlockCodes:
    """A block type as one that holds codes of others.

    Attributes:
        name: of the type, a key of `BLOCK_TYPES`.
        bits: of a code.
        has_minimum: whether a block stores what the code 0 stands for; otherwise zero lies in the middle of the codes.
    """

    name: str
    bits: int
    has_minimum: bool = False

    @property
    def levels(self) -> range:
        """Return the whole numbers that a block multiplies with its scale: of Q4_0 -8 to 7, of Q4_1 0 to 15."""
        least = 0 if self.has_minimum else -(2 ** (self.bits - 1))
        return range(least, least + 2**self.bits)


# From the smallest on.
CENTERED = (BlockCodes("Q4_0", 4), BlockCodes("Q5_0", 5), BlockCodes("Q8_0", 8))
WITH_MINIMUM = (BlockCodes("Q4_1", 4, has_minimum=True), BlockCodes("Q5_1", 5, has_minimum=True))


def pack_codes(codes: Tensor, scale: Tensor, zero_point: Tensor, type_: BlockCodes) -> Tensor:
    """Pack the codes of w = (code - zero_point) * scale into blocks; a larger group is several with the same scale.

    Args:
        codes: uint8 [rows, in]; each code less its zero point is one of the levels of a type without minima.
        scale: [rows, groups]; each group is whole blocks.
        zero_point: whole numbers [rows, groups].
        type_: of the blocks; scales, and minima where it has them, are rounded to float16.

    Returns:
        uint8 [rows, bytes of a row].
    """
    blocks = codes.reshape(-1, BLOCK_SIZE)  # [rows, in] -> [blocks, 32]
    scales, zeros = (_by_block(numbers, codes) for numbers in (scale, zero_point))
    if type_.has_minimum:
        packed = pack_plain((scales, _minima(scales, zeros)), blocks, type_.bits)
    else:
        # The bytes of Q8_0 are signed, and so is their zero.
        middle = 0 if type_.bits == 8 else 2 ** (type_.bits - 1)
        shifted = blocks.to(torch.int16) + (middle - zeros.to(torch.int16))[:, None]
        packed = pack_plain((scales,), (shifted & 255).to(torch.uint8), type_.bits)
    return packed.reshape(len(codes), -1)  # [blocks, bytes of a block] -> [rows, bytes of a row]


def largest_change(codes: Tensor, scale: Tensor, zero_point: Tensor, type_: BlockCodes) -> tuple[float, float]:
    """Return by how much the blocks of `pack_codes` move a weight at most, and the scale of that weight's group."""
    blocks = codes.reshape(-1, BLOCK_SIZE)  # [rows, in] -> [blocks, 32]
    scales, zeros = (_by_block(numbers, codes) for numbers in (scale, zero_point))
    stored = scales.to(torch.float16).double()
    exact = scales.double()
    minima = _minima(scales, zeros).to(torch.float16).double() if type_.has_minimum else -zeros.double() * stored
    # The change is a line over the codes, so that it is largest at the least code or at the largest.
    ends = torch.stack([blocks.amin(1), blocks.amax(1)]).double()  # [2, blocks]
    moved = (ends * stored + minima - (ends - zeros.double()) * exact).abs().amax(0)
    place = int(moved.argmax())
    return moved[place].item(), exact[place].abs().item()


def _minima(scales: Tensor, zeros: Tensor) -> Tensor:
    """Return what the code 0 stands for, float32: the exact product of a 16-bit number and a small whole one."""
    return -scales.float() * zeros.float()


def _by_block(numbers: Tensor, codes: Tensor) -> Tensor:
    """Return numbers of groups, [rows, groups], as those of all blocks, [blocks]."""
    per_group = codes.shape[1] // BLOCK_SIZE // numbers.shape[1]
    return numbers.repeat_interleave(per_group, dim=1).reshape(-1)  # [rows, blocks of a row] -> [blocks]
