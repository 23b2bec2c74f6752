"""Codes of others in blocks: the `gguf` package expands them to (code - zero_point) * scale."""

import gguf
import numpy as np
import pytest
import torch

from qtoolkit.tensor.block_codes import CENTERED, WITH_MINIMUM, BlockCodes, largest_change, pack_codes

pytestmark = pytest.mark.once


def numbers(bits: int, groups: int = 2, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Every code of these bits several times in 6 rows, and scales of both signs."""
    codes = torch.arange(6 * groups * size).reshape(6, groups * size) * 7 % 2**bits
    scale = (torch.arange(6 * groups).reshape(6, groups) - 5.5).mul(0.0173).half()
    return codes.to(torch.uint8), scale


def expanded(packed: torch.Tensor, type_: BlockCodes) -> np.ndarray:
    return gguf.dequantize(packed.numpy(), gguf.GGMLQuantizationType[type_.name]).astype(np.float64)


def weight(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> np.ndarray:
    size = codes.shape[1] // scale.shape[1]
    wide = (one.double().numpy().repeat(size, axis=1) for one in (scale, zero))
    by_weight = [*wide]
    return (codes.double().numpy() - by_weight[1]) * by_weight[0]


@pytest.mark.parametrize("type_", CENTERED, ids=lambda type_: type_.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_symmetric_codes_are_the_same_numbers(type_: BlockCodes, dtype: torch.dtype) -> None:
    codes, scale = numbers(type_.bits)
    zero = torch.full(scale.shape, 2 ** (type_.bits - 1), dtype=torch.uint8)
    packed = pack_codes(codes, scale.to(dtype), zero, type_)
    assert np.array_equal(expanded(packed, type_), weight(codes, scale, zero))
    assert largest_change(codes, scale, zero, type_)[0] == 0


@pytest.mark.parametrize(("bits", "type_"), [(3, CENTERED[0]), (4, CENTERED[1]), (7, CENTERED[2])])
def test_zero_points_of_fewer_bits_are_the_same_numbers(bits: int, type_: BlockCodes) -> None:
    codes, scale = numbers(bits)
    zero = (torch.arange(12).reshape(6, 2) * 5 % 2**bits).to(torch.uint8)
    packed = pack_codes(codes, scale, zero, type_)
    assert np.array_equal(expanded(packed, type_), weight(codes, scale, zero))


@pytest.mark.parametrize("type_", WITH_MINIMUM, ids=lambda type_: type_.name)
def test_the_minimum_alone_is_rounded(type_: BlockCodes) -> None:
    codes, scale = numbers(type_.bits)
    zero = (torch.arange(12).reshape(6, 2) * 5 % 2**type_.bits).to(torch.uint8)
    found = expanded(pack_codes(codes, scale, zero, type_), type_)
    exact = weight(codes, scale, zero)
    minimum = (-zero.double().numpy() * scale.double().numpy()).astype(np.float16).astype(np.float64)
    wide = (one.repeat(64, axis=1) for one in (scale.double().numpy(), minimum))
    by_weight = [*wide]
    # The package adds in float32.
    expected = (by_weight[0] * codes.double().numpy() + by_weight[1]).astype(np.float32).astype(np.float64)
    assert np.array_equal(found, expected)
    change, step = largest_change(codes, scale, zero, type_)
    moved = np.abs(by_weight[0] * codes.double().numpy() + by_weight[1] - exact)
    assert change == moved.max() > 0
    assert step in np.abs(scale.double().numpy())


def test_the_change_of_rounded_scales_is_that_of_the_codes_that_there_are() -> None:
    codes, scale = numbers(4)
    codes = codes.clamp(5, 9)
    scale = scale.float() * 1.0003
    zero = torch.full(scale.shape, 8, dtype=torch.uint8)
    moved = np.abs(expanded(pack_codes(codes, scale, zero, CENTERED[0]), CENTERED[0]) - weight(codes, scale, zero))
    change, step = largest_change(codes, scale, zero, CENTERED[0])
    assert change == moved.max() > 0
    assert step == np.abs(scale.double().numpy()).reshape(-1)[moved.reshape(12, 64).max(1).argmax()]
