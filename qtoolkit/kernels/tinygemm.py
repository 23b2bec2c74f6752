"""4-bit codes in the layouts of torch's kernels, which multiply few tokens as fast as the codes can be read.

Kernels: `aten::_weight_int4pack_mm_for_cpu` (AVX512 and AVX2) and `aten::_weight_int4pack_mm` (CUDA from compute
capability 8.0), both y = x W^T in bfloat16 with W = (code - 8) * scale + offset. The layouts are private to torch and
may change; so ours is compared with torch's once a process, and not used where it differs.
"""

from functools import cache
from typing import NamedTuple

import torch

# Outputs that are stored together in the layouts for AVX512 and AVX2, and in ours where no kernel needs a layout.
_CPU_BLOCKS = (64, 32)
PLAIN_BLOCK = 64
# Inputs that may share a scale in the kernels.
_GROUP_SIZES = (256, 128, 64, 32)
# The mask of the low half of each byte.
_LOW_HALVES = 0x0F0F0F0F0F0F0F0F


class Layout(NamedTuple):
    """How 4-bit codes of a weight W[out, in] are stored in memory.

    Attributes:
        block: outputs that are stored together; 0 for the tiles of the CUDA kernel.
        group_size: inputs that share a scale in the kernel; None where no kernel supports the weight.
    """

    block: int
    group_size: int | None

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Pack codes uint8 [in, out], each below 16, whole blocks of outputs, into half a byte each, outputs first."""
        return _pack_halves(codes, self.block) if self.block else _pack_tiles(codes)

    def unpack(self, packed: torch.Tensor, in_features: int, columns: slice) -> torch.Tensor:
        """Return the codes of some outputs, whole blocks of them, uint8 [in, outputs]."""
        if self.block:
            return _unpack_halves(packed, self.block, columns)
        return _unpack_tiles(packed, in_features, columns)


def layout_for(in_features: int, out_features: int, group_size: int, device: torch.device) -> Layout | None:
    """Return the layout for a weight of this shape with equal groups of this size; None where no layout fits."""
    if in_features % group_size:
        return None
    size = next((size for size in _GROUP_SIZES if group_size % size == 0), None)
    if size is not None and device.type == "cpu":
        block = cpu_block()
        if block is not None and out_features % block == 0:
            return Layout(block, size)
    tiled = device.type == "cuda" and out_features % 8 == 0 and in_features % 32 == 0
    if size is not None and tiled and _cuda_works(device):
        return Layout(0, size)
    return Layout(PLAIN_BLOCK, None) if out_features % PLAIN_BLOCK == 0 else None


def pairs_of(scale: torch.Tensor, offset: torch.Tensor | None, repeats: int) -> torch.Tensor:
    """Return scales and offsets as `multiply` takes them.

    Args:
        scale: [groups, out], any floating type.
        offset: [groups, out]; None where all are 0.
        repeats: groups of the kernel in each of these groups.

    Returns:
        The pairs, bfloat16 [groups * repeats, out, 2]; without offsets the bits of the bfloat16 scales alone, uint16
        [groups * repeats, out, 1], in half the memory.
    """
    parts = (scale,) if offset is None else (scale, offset)
    pairs = torch.stack([part.bfloat16() for part in parts], dim=-1).repeat_interleave(repeats, dim=0)
    return pairs.view(torch.uint16) if offset is None else pairs


def multiply(x: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor, group_size: int) -> torch.Tensor:
    """Compute x[tokens, in] -> x W^T [tokens, out], both bfloat16, with W = (code - 8) * scale + offset.

    The kernels support bfloat16 scales and offsets only, an error of up to 0.2 % and 0.1 % on average: about as much as
    rounding the outputs to bfloat16 adds.

    Args:
        x: inputs.
        packed: codes in the layout of the kernel for the device of x.
        pairs: of `pairs_of`.
        group_size: of the layout.
    """
    if pairs.shape[2] == 1:
        # 32 bits are two bfloat16 numbers, the upper one 0 here: the pairs (scale, 0).
        pairs = pairs.to(torch.int32).view(torch.bfloat16)
    kernel = torch._weight_int4pack_mm if x.is_cuda else torch._weight_int4pack_mm_for_cpu  # noqa: SLF001
    return kernel(x.contiguous(), packed, group_size, pairs)


@cache
def cpu_block() -> int | None:
    """Return how many outputs the CPU kernel's layout stores together; None where torch has no fast kernel here."""
    # [in, out]: two blocks, all columns different.
    codes = (torch.arange(32)[:, None] * 5 + torch.arange(128) * 3 + torch.arange(128) // 16).remainder(16).byte()
    theirs = torch._convert_weight_to_int4pack_for_cpu(codes.T.int().contiguous(), 1)  # noqa: SLF001
    return next((block for block in _CPU_BLOCKS if torch.equal(_pack_halves(codes, block), theirs)), None)


def _pack_halves(codes: torch.Tensor, block: int) -> torch.Tensor:
    """Pack codes [in, out] into uint8 [out, in / 2]: ordered by blocks of outputs, and within a block by inputs.

    An input of a block takes block / 2 bytes, with the block's first half of outputs in the low bits and the second
    half in the high bits.
    """
    in_features, out_features = codes.shape
    # [in, out] -> [in, blocks, 2, block / 2]
    halves = codes.unflatten(1, (out_features // block, 2, block // 2))
    packed: torch.Tensor = halves[:, :, 0] | (halves[:, :, 1] << 4)
    # [in, blocks, block / 2] -> [blocks, in, block / 2] -> [out, in / 2]
    return packed.transpose(0, 1).reshape(out_features, in_features // 2)


def _unpack_halves(packed: torch.Tensor, block: int, columns: slice) -> torch.Tensor:
    """Return the codes of `_pack_halves`, uint8 [in, outputs].

    Half bytes are taken apart eight bytes at a time, and put in their places sixteen at a time, as complex numbers:
    torch moves no larger ones at once.
    """
    rows = packed[columns]
    words = rows.view(torch.int64)
    halves = (words & _LOW_HALVES, (words >> 4).bitwise_and_(_LOW_HALVES))
    inputs, blocks, pieces = 2 * rows.shape[1], rows.shape[0] // block, block // 32
    codes = torch.empty(inputs, blocks, 2, pieces, dtype=torch.complex128, device=packed.device)
    for half, bytes_ in enumerate(halves):
        # [outputs, in / 2] -> [blocks, in, pieces of 16 bytes]
        moved = bytes_.view(torch.complex128).view(blocks, inputs, pieces)
        for piece in range(pieces):
            codes[:, :, half, piece] = moved[:, :, piece].T
    # [in, blocks, 2, pieces] of 16 bytes -> [in, outputs] bytes
    return codes.view(torch.uint8).view(inputs, rows.shape[0])


def _pack_tiles(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes [in, out] into int32 [out / 8, in / (16 * tiles), 32, tiles / 2]."""
    # Two neighbouring inputs share a byte, the first in the high bits. [in, out] -> [out, in / 2]
    pairs = (codes[0::2] << 4 | codes[1::2]).T.contiguous()
    tiles = next(count for count in (8, 4, 2) if len(codes) % (16 * count) == 0)
    return torch._convert_weight_to_int4pack(pairs, tiles)  # noqa: SLF001


def _unpack_tiles(packed: torch.Tensor, in_features: int, columns: slice) -> torch.Tensor:
    """Return the codes of some outputs of `_pack_tiles`, uint8 [in, outputs].

    Thread t of 32 holds output t // 4 of 8, and of each pair of tiles the inputs i = t % 4 * 2 + (0, 8, 16, 24) in its
    lower four half bytes, i + 1 in its upper four (the fragments of mma.m16n8k16; torch's int4mm.cu).
    """
    words = packed[columns.start // 8 : columns.stop // 8]
    shifts = torch.arange(0, 32, 4, device=packed.device, dtype=torch.int32)
    halves = (words[..., None] >> shifts).bitwise_and_(15).to(torch.uint8)
    # [out / 8, in / .., 8 outputs, 4 pairs of inputs, tiles / 2, 2 of a pair, 4 eighths of two tiles]
    halves = halves.unflatten(2, (8, 4)).unflatten(5, (2, 4))
    # -> [in / .., tiles / 2, eighths, pairs, 2 of a pair, out / 8, 8 outputs] -> [in, outputs]
    codes: torch.Tensor = halves.permute(1, 4, 6, 3, 5, 0, 2).reshape(in_features, -1)
    return codes


@cache
def _cuda_works(device: torch.device) -> bool:
    """Check with a small weight whether the CUDA kernel exists and has the layout that is known here.

    Without CUDA, only plans for another machine ask; that machine is assumed to have the kernel.
    """
    if not torch.cuda.is_available():
        return True
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    codes = torch.arange(256 * 32, device=device).mul(7).remainder(16).view(256, 32).byte()
    scale = torch.full((2, 32), 0.5, device=device)
    x = torch.eye(256, device=device, dtype=torch.bfloat16)[:40]
    try:
        packed = _pack_tiles(codes)
        same = torch.equal(_unpack_tiles(packed, 256, slice(0, 32)), codes)
        for offset in (None, scale):
            y = multiply(x, packed, pairs_of(scale, offset, 1), 128)
            same = same and torch.equal(y.float(), (codes[:40].float() - 8 + (offset is not None)) * 0.5)
    except RuntimeError:
        return False
    return same
