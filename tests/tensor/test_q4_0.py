"""Scales of either sign are those of llama.cpp's Q4_0, read and made by the package gguf."""

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from qtoolkit.tensor.integer_codes import absmax_quantize
from qtoolkit.tensor.qparams import search_qparams

SIZE = 32


def blocks_of(codes: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """Q4_0's blocks uint8 [groups, 18] of codes 0 to 15 [groups, 32]: a float16, then codes k and k + 16 in byte k."""
    nibbles = codes.to(torch.uint8).numpy()
    packed = nibbles[:, : SIZE // 2] | nibbles[:, SIZE // 2 :] << 4
    return np.concatenate([scale.half().numpy().view(np.uint8).reshape(-1, 2), packed], axis=1)


def test_searched_scales_are_read_as_they_are() -> None:
    torch.manual_seed(0)
    weight = torch.randn(SIZE, 400)
    options = {"bits": 4, "group_size": SIZE, "sym": True, "full_range": True, "steps": 20, "smallest": 0.4}
    scale = search_qparams(weight, torch.rand(SIZE), **options).scale
    levels = (weight / scale).round().clamp(-8, 7)
    read = dequantize(blocks_of(levels.T + 8, scale[0]), GGMLQuantizationType.Q4_0)
    assert 100 < (scale < 0).sum() < 300
    assert torch.equal(torch.from_numpy(read), (levels * scale).T)


def test_full_range_codes_are_those_that_it_makes() -> None:
    torch.manual_seed(1)
    groups = torch.randn(400, SIZE).clamp(-3.9, 3.9)
    # The largest magnitude is 8 times a number that float16 holds, so that nothing is rounded before the codes are.
    groups[torch.arange(400), torch.randint(SIZE, (400,))] = torch.linspace(4, 8, 401)[:400].half().float()
    groups[::2] *= -1
    codes, scale = absmax_quantize(groups, 4, full_range=True, scale_dtype=torch.float16)
    assert np.array_equal(blocks_of(codes + 8, scale), quantize(groups.numpy(), GGMLQuantizationType.Q4_0))
