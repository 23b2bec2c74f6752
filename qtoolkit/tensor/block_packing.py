"""Pack codes, scales and minima into blocks of bytes, as llama.cpp lays them out (`ggml-common.h`, `ggml-quants.c`).

Codes come as uint8 [blocks, weights], numbers of a block as [blocks, k].
"""

import torch
from torch import Tensor


def pack_plain(parts: tuple[Tensor, ...], codes: Tensor, bits: int) -> Tensor:
    """Pack the blocks of 32 of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: 16-bit numbers, the fifth bits, then four bits each.

    A byte holds the code of weight j in its low half and that of weight j + 16 in its high half.

    Args:
        parts: the scale, and the minimum where there is one, [blocks].
        codes: uint8 [blocks, 32]; of 8 bits, the bytes of signed numbers.
        bits: 4, 5 or 8.
    """
    numbers = [half_bytes(part) for part in parts]
    if bits == 8:
        return torch.cat([*numbers, codes], 1)
    halves = (codes & 15).unflatten(1, (2, 16))  # [blocks, 32] -> [blocks, half, 16]
    low = halves[:, 0] | halves[:, 1] << 4
    if bits == 4:
        return torch.cat([*numbers, low], 1)
    # Bit j of 32: little-endian, so byte j // 8, bit j % 8.
    high = _joined((codes >> 4).unflatten(1, (4, 8)), 2, 1)  # [blocks, 32] -> [blocks, byte, bit] -> [blocks, 4]
    return torch.cat([*numbers, high, low], 1)


def pack_q2(stored: tuple[Tensor, ...], codes: Tensor) -> Tensor:
    """Pack the blocks of Q2_K: 16 scales and minima of 4 bits, 256 codes of 2 bits, two 16-bit numbers.

    Args:
        stored: the two 16-bit numbers [blocks], then scales and minima uint8 [blocks, 16].
        codes: uint8 [blocks, 256].
    """
    scale, minimum, scales, minima = stored
    return torch.cat([scales | minima << 4, _quarters(codes), half_bytes(scale), half_bytes(minimum)], 1)


def pack_q3(stored: tuple[Tensor, ...], codes: Tensor) -> Tensor:
    """Pack the blocks of Q3_K: third bits, codes of 2 bits, 16 scales of 6 bits (32 is zero), a 16-bit number.

    Scales 0 to 7 have their low four bits in the low halves of bytes 0 to 7, scales 8 to 15 in the high halves; byte
    8 + j holds the two upper bits of scales j, j + 4, j + 8 and j + 12.

    Args:
        stored: the 16-bit number [blocks], then scales uint8 [blocks, 16].
        codes: uint8 [blocks, 256].
    """
    scale, scales = stored
    low = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
    high = _joined((scales >> 4).unflatten(1, (4, 4)), 1, 2)  # [blocks, 16] -> [blocks, shift, byte] -> [blocks, 4]
    return torch.cat([_eighths(codes >> 2), _quarters(codes & 3), low, high, half_bytes(scale)], 1)


def pack_q4_q5(stored: tuple[Tensor, ...], codes: Tensor, bits: int) -> Tensor:
    """Pack the blocks of Q4_K and Q5_K: two 16-bit numbers, 8 scales and minima of 6 bits, fifth bits, four bits each.

    Bytes 0 to 3 hold scales 0 to 3, and above them the upper bits of scales 4 to 7; bytes 4 to 7 the minima likewise;
    bytes 8 to 11 the low four bits of scales and minima 4 to 7. A byte of codes holds weights j and j + 32 of 64.

    Args:
        stored: the two 16-bit numbers [blocks], then scales and minima uint8 [blocks, 8].
        codes: uint8 [blocks, 256].
        bits: 4 or 5.
    """
    scale, minimum, scales, minima = stored
    packed = [
        scales[:, :4] | (scales[:, 4:] >> 4) << 6,
        minima[:, :4] | (minima[:, 4:] >> 4) << 6,
        (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4,
    ]
    halves = (codes & 15).unflatten(1, (4, 2, 32))  # [blocks, 256] -> [blocks, 64 weights, half, 32]
    low = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)
    fifth = [_eighths(codes >> 4)] if bits == 5 else []
    return torch.cat([half_bytes(scale), half_bytes(minimum), *packed, *fifth, low], 1)


def pack_q6(stored: tuple[Tensor, ...], codes: Tensor) -> Tensor:
    """Pack the blocks of Q6_K: low four bits, upper two bits, 16 scales as bytes (int8), a 16-bit number.

    Args:
        stored: the 16-bit number [blocks], then scales int8 [blocks, 16].
        codes: uint8 [blocks, 256].
    """
    scale, scales = stored
    quarters = (codes & 15).unflatten(1, (2, 4, 32))  # [blocks, 256] -> [blocks, 128 weights, quarter, 32]
    low = (quarters[:, :, :2] | quarters[:, :, 2:] << 4).flatten(1)
    return torch.cat([low, _quarters(codes >> 4), scales.view(torch.uint8), half_bytes(scale)], 1)


def pack_iq4_xs(stored: tuple[Tensor, ...], codes: Tensor) -> Tensor:
    """Pack the blocks of IQ4_XS: a 16-bit number, 8 scales of 6 bits (32 is zero), 256 codes of 4 bits.

    Bytes 2 and 3 hold the two upper bits of scales 0 to 3 and 4 to 7, bytes 4 to 7 the low four bits of two each.

    Args:
        stored: the 16-bit number [blocks], then scales uint8 [blocks, 8].
        codes: uint8 [blocks, 256].
    """
    scale, scales = stored
    high = _joined((scales >> 4).unflatten(1, (2, 4)), 2, 2)  # [blocks, 8] -> [blocks, byte, scale] -> [blocks, 2]
    low = _joined((scales & 15).unflatten(1, (4, 2)), 2, 4)  # [blocks, 8] -> [blocks, byte, half] -> [blocks, 4]
    halves = codes.unflatten(1, (8, 2, 16))  # [blocks, 256] -> [blocks, group, half, 16]
    return torch.cat([half_bytes(scale), high, low, (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)], 1)


def half_bytes(numbers: Tensor) -> Tensor:
    """Return numbers [blocks] as float16 in bytes, [blocks, 2].

    Raises:
        OverflowError: as `to_half`.
    """
    return to_half(numbers).unsqueeze(1).view(torch.uint8)


def to_half(numbers: Tensor) -> Tensor:
    """Return finite numbers as float16.

    Raises:
        OverflowError: one is beyond 65504, the largest of float16.
    """
    halves = numbers.to(torch.float16)
    if halves.isinf().any():
        raise OverflowError(f"float16 holds no more than 65504, not {numbers.abs().max().item():.4g}")
    return halves


def _quarters(codes: Tensor) -> Tensor:
    """Pack codes of 2 bits: a byte holds weights j, j + 32, j + 64 and j + 96 of 128; [blocks, 256] -> [blocks, 64]."""
    return _joined(codes.unflatten(1, (2, 4, 32)), 2, 2).flatten(1)


def _eighths(bits: Tensor) -> Tensor:
    """Pack single bits: bit i of byte j is that of weight 32 i + j; [blocks, 256] -> [blocks, 32]."""
    return _joined(bits.unflatten(1, (8, 32)), 1, 1)


def _joined(codes: Tensor, dim: int, bits: int) -> Tensor:
    """Join the codes along a dimension into one byte, the first in the lowest bits."""
    joined = codes.select(dim, 0)
    for index in range(1, codes.shape[dim]):
        joined = joined | codes.select(dim, index) << (bits * index)
    return joined
