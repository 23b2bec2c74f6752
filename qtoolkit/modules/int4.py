"""4-bit weights in the layouts of torch's own kernels, which multiply few rows as fast as the codes can be read.

Kernels: `aten::_weight_int4pack_mm_for_cpu` (AVX512 and AVX2) and `aten::_weight_int4pack_mm` (CUDA from compute
capability 8.0), both y = x W^T in bfloat16 with W = (code - 8) * scale + offset. torch keeps the layouts to itself and
may change them; so ours is compared with what torch makes, once a process, and not used where it differs.
"""

from collections.abc import Iterable
from functools import cache

import torch

# Outputs that lie together in the layouts of AVX512 and AVX2.
_CPU_BLOCKS = (64, 32)
# Inputs that may share a scale in the kernels.
_GROUP_SIZES = (256, 128, 64, 32)
# One bit pattern for each half of a byte.
_LOW_HALVES = 0x0F0F0F0F0F0F0F0F


class Int4Weight:
    """A weight W[out, in] = (code - zero_point) * scale in the layout of torch's kernel for the device of its codes.

    The kernels know scales and offsets (8 - zero_point) * scale in bfloat16 alone, which is up to 0.2 % off, and by
    0.1 % on average: the outputs are off by as much as by being rounded to bfloat16 themselves. The scales are kept
    exactly all the same, those in float16 as the distance of each from its rounded one.

    Args:
        codes: uint8 [in, out], each below 16, in pieces [in, outputs] of whole blocks of outputs.
        scale: float16, or another floating type, [groups, out], finite; the groups are equal parts of the inputs, in
            their order.
        zero_point: uint8 [groups, out], at most 16.
        in_features: columns of the weight.

    Attributes:
        packed: the codes; uint8 [out, in / 2] on CPU, int32 on CUDA.
        rounded: the scales in bfloat16. With zero points 8 everywhere their bits, uint16 [groups, out, 1], which become
            the pairs that a kernel takes by being widened to 32 bits; otherwise the pairs (scale, offset) themselves,
            bfloat16 [groups, out, 2]. Groups are those of the kernel, parts of the weight's own where it knows none so
            large.
        exact: int8 [groups, out], float16 scales less the rounded ones, in steps of float16; scales of other types
            themselves.
    """

    __slots__ = ("exact", "group_size", "in_features", "packed", "rounded")

    def __init__(
        self, codes: Iterable[torch.Tensor], scale: torch.Tensor, zero_point: torch.Tensor, in_features: int
    ) -> None:
        self.in_features = in_features
        size = kernel_group_size(in_features // len(scale))
        assert size is not None
        self.group_size = size
        pack = _pack_cuda if scale.is_cuda else _pack_cpu
        self.packed = torch.cat([pack(piece) for piece in codes])
        near = scale.bfloat16()
        is_half = scale.dtype == torch.float16
        self.exact = (_bits(scale) - _bits(near.half())).to(torch.int8) if is_half else scale
        if bool((zero_point == 8).all()):
            rounded = near.view(torch.uint16)[..., None]
        else:
            rounded = torch.stack((near, ((8 - zero_point.float()) * scale).bfloat16()), dim=-1)
        self.rounded = rounded.repeat_interleave(in_features // len(scale) // size, dim=0)

    @staticmethod
    def takes(in_features: int, out_features: int, group_size: int, device: torch.device) -> bool:
        """Whether there is a kernel for a weight of this shape with equal groups of this size, on this device."""
        size = kernel_group_size(group_size)
        if size is None or in_features % group_size:
            return False
        if device.type == "cpu":
            block = cpu_block()
            return block is not None and out_features % block == 0
        return device.type == "cuda" and out_features % 8 == 0 and in_features % 32 == 0 and _cuda_works(device)

    @staticmethod
    def scale_bytes(in_features: int, out_features: int, group_size: int, *, centered: bool) -> int:
        """Bytes of everything but the codes, for scales in float16.

        Args:
            in_features, out_features: of the weight.
            group_size: inputs that share a scale.
            centered: whether all zero points are 8.
        """
        size = kernel_group_size(group_size)
        assert size is not None
        pairs = in_features // size * out_features * (2 if centered else 4)
        return pairs + in_features // group_size * out_features

    @property
    def centered(self) -> bool:
        """Whether all zero points are 8."""
        return self.rounded.shape[2] == 1

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x[tokens, in] -> x W^T [tokens, out], both bfloat16."""
        pairs = self.rounded
        if self.centered:
            # 32 bits are two bfloat16 numbers, the upper one 0 here: the pairs (scale, 0).
            pairs = pairs.to(torch.int32).view(torch.bfloat16)
        kernel = torch._weight_int4pack_mm if x.is_cuda else torch._weight_int4pack_mm_for_cpu  # noqa: SLF001
        return kernel(x.contiguous(), self.packed, self.group_size, pairs)

    def codes(self, columns: slice) -> torch.Tensor:
        """The codes of some outputs, uint8 [in, outputs]; on CPU `columns` begins and ends with a block."""
        if self.packed.is_cuda:
            return _unpack_cuda(self.packed, self.in_features, columns)
        return _unpack_cpu(self.packed, columns)

    def scale(self, columns: slice) -> torch.Tensor:
        """The exact scales of some outputs, [groups, outputs] in their own type."""
        exact, near = self.exact[:, columns], self.rounded[:, columns, 0].view(torch.bfloat16)
        if exact.dtype != torch.int8:
            return exact
        # One of the parts that a group was cut into is enough.
        near = near[:: len(near) // len(exact)].half()
        return (_bits(near) + exact).view(torch.float16)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that it keeps, by name."""
        return {"packed": self.packed, "rounded": self.rounded, "exact": self.exact}


def kernel_group_size(group_size: int) -> int | None:
    """The largest group size of the kernels that divides this one; None when there is none."""
    return next((size for size in _GROUP_SIZES if group_size % size == 0), None)


@cache
def cpu_block() -> int | None:
    """How many outputs lie together in the CPU kernel's layout; None when torch has no fast kernel for this CPU."""
    # [in, out]: two blocks, and no two columns alike.
    codes = (torch.arange(32)[:, None] * 5 + torch.arange(128) * 3 + torch.arange(128) // 16).remainder(16).byte()
    theirs = torch._convert_weight_to_int4pack_for_cpu(codes.T.int().contiguous(), 1)  # noqa: SLF001
    return next((block for block in _CPU_BLOCKS if torch.equal(_pack_halves(codes, block), theirs)), None)


def _bits(scale: torch.Tensor) -> torch.Tensor:
    """float16 as its bits, int16: the next number is the next integer."""
    return scale.contiguous().view(torch.int16)


def _pack_cpu(codes: torch.Tensor) -> torch.Tensor:
    block = cpu_block()
    assert block is not None
    return _pack_halves(codes, block)


def _pack_halves(codes: torch.Tensor, block: int) -> torch.Tensor:
    """Codes [in, out] as uint8 [out, in / 2]: by blocks of outputs, and in these by inputs.

    An input of a block takes block / 2 bytes: the first half of the outputs in their low bits, the other in their high.
    """
    in_features, out_features = codes.shape
    # [in, out] -> [in, blocks, 2, block / 2]
    halves = codes.unflatten(1, (out_features // block, 2, block // 2))
    packed: torch.Tensor = halves[:, :, 0] | (halves[:, :, 1] << 4)
    # [in, blocks, block / 2] -> [blocks, in, block / 2] -> [out, in / 2]
    return packed.transpose(0, 1).reshape(out_features, in_features // 2)


def _unpack_cpu(packed: torch.Tensor, columns: slice) -> torch.Tensor:
    """Whole blocks of `_pack_cpu` as uint8 [in, outputs]; eight bytes at a time, twice as fast as one by one."""
    block = cpu_block()
    assert block is not None
    rows = packed[columns]
    # [outputs, in / 2] -> [blocks, in, block / 16] words of 8 bytes -> [in, blocks, block / 16]
    words = rows.view(torch.int64).view(len(rows) // block, -1, block // 16).transpose(0, 1)
    codes = torch.empty(*words.shape[:2], 2, block // 16, dtype=torch.int64)
    torch.bitwise_and(words, _LOW_HALVES, out=codes[:, :, 0])
    torch.bitwise_right_shift(words, 4, out=codes[:, :, 1])
    # [in, blocks, 2, block / 16] words -> [in, outputs] bytes
    return codes.bitwise_and_(_LOW_HALVES).view(torch.uint8).view(len(codes), len(rows))


def _pack_cuda(codes: torch.Tensor) -> torch.Tensor:
    # Two neighbouring inputs in a byte, the first in the high bits. [in, out] -> [out, in / 2]
    pairs = (codes[0::2] << 4 | codes[1::2]).T.contiguous()
    return torch._convert_weight_to_int4pack(pairs, _inner_tiles(len(codes)))  # noqa: SLF001


def _inner_tiles(in_features: int) -> int:
    """Tiles of 16 inputs that the CUDA kernel takes together."""
    return next(count for count in (8, 4, 2) if in_features % (16 * count) == 0)


def _unpack_cuda(packed: torch.Tensor, in_features: int, columns: slice) -> torch.Tensor:
    """The codes of some outputs of `_pack_cuda`, uint8 [in, outputs].

    packed is int32 [out / 8, in / (16 * tiles), 32 threads, tiles / 2]. Thread t has output t // 4 of 8, and of each
    pair of tiles the inputs i = t % 4 * 2 + (0, 8, 16, 24) in its lower four halves of bytes, i + 1 in its upper four
    (the fragments of mma.m16n8k16; torch's int4mm.cu).
    """
    first, last = columns.start // 8, -(-columns.stop // 8)
    words = packed[first:last]
    shifts = torch.arange(0, 32, 4, device=packed.device, dtype=torch.int32)
    halves = (words[..., None] >> shifts).bitwise_and_(15).to(torch.uint8)
    # [out / 8, in / .., 8 outputs, 4 pairs of inputs, tiles / 2, 2 of a pair, 4 eighths of two tiles]
    halves = halves.unflatten(2, (8, 4)).unflatten(5, (2, 4))
    # -> [in / .., tiles / 2, eighths, pairs, 2 of a pair, out / 8, 8 outputs] -> [in, outputs]
    codes: torch.Tensor = halves.permute(1, 4, 6, 3, 5, 0, 2).reshape(in_features, -1)
    return codes[:, columns.start - 8 * first : columns.stop - 8 * first]


@cache
def _cuda_works(device: torch.device) -> bool:
    """Whether the CUDA kernel is there, and its layout is the one we know: by a small weight, there and back."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    codes = torch.arange(256 * 32, device=device).mul(7).remainder(16).view(256, 32).byte()
    scale = torch.full((2, 32), 0.5, device=device, dtype=torch.float16)
    weight = Int4Weight([codes], scale, torch.full((2, 32), 7, device=device, dtype=torch.uint8), 256)
    x = torch.eye(256, device=device, dtype=torch.bfloat16)[:40]
    same_codes = torch.equal(weight.codes(slice(0, 32)), codes)
    return same_codes and torch.equal(weight.multiply(x).float(), (codes[:40].float() - 7) * 0.5)
