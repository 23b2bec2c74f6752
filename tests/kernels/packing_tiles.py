"""Codes in the tiles of torch's CUDA kernel, packed without CUDA."""

import torch


def pack_tiles(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes [in, out] as torch does on a GPU, one after the other; `_unpack_tiles` is the way back."""
    tiles = next(count for count in (8, 4, 2) if len(codes) % (16 * count) == 0)
    i, o = torch.meshgrid(*(torch.arange(size) for size in codes.shape), indexing="ij")
    within = i % (16 * tiles)
    words = torch.zeros(codes.shape[1] // 8, len(codes) // (16 * tiles), 32, tiles // 2, dtype=torch.int64)
    places = (o // 8, i // (16 * tiles), o % 8 * 4 + i % 8 // 2, within // 32)
    words.index_put_(places, codes.long() << i % 2 * 16 + within % 32 // 8 * 4, accumulate=True)
    return words.to(torch.int32)
