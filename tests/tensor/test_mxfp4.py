"""MXFP4 and NVFP4 are expanded to the numbers that loops over nibbles and scales give, and what is none is refused."""

import pytest
import torch

from qtoolkit.tensor.mxfp4 import expand_mxfp4, expand_nvfp4
from tests.coded_models import E2M1, expand_nibbles

BFLOAT16 = torch.bfloat16


def test_every_byte_with_every_exponent_is_what_a_loop_gives() -> None:
    exponents = torch.tensor([1, 60, 126, 127, 128, 200, 252], dtype=torch.uint8)  # as far as bfloat16 is exact
    every = torch.arange(256, dtype=torch.uint8).view(16, 16)
    blocks = every[None, None].expand(1, 7, 16, 16).contiguous()  # [experts, out, groups, bytes]
    shared = exponents[None, :, None].expand(1, 7, 16).contiguous()
    expanded = expand_mxfp4(blocks, shared, BFLOAT16).transpose(1, 2)
    expected = expand_nibbles(blocks, shared)
    assert torch.equal(expanded, expected)
    assert torch.equal(expanded.signbit(), expected.signbit())  # minus zero too


def test_a_byte_by_hand() -> None:
    """0x7F: the low four bits are 15, -6, the high ones 7, 6; 2^(124 - 127) is an eighth."""
    blocks, exponents = torch.tensor([[0x7F]], dtype=torch.uint8), torch.tensor([124], dtype=torch.uint8)
    assert expand_mxfp4(blocks, exponents, torch.float32).tolist() == [-0.75, 0.75]


@pytest.mark.parametrize(
    ("shape", "exponents", "message"),
    [
        ((2, 3, 16), torch.full((2, 2), 127), "each group needs an exponent"),
        ((2, 3, 16), torch.full((2, 3), 255), "stands for NaN"),
    ],
)
def test_what_is_no_mxfp4_is_refused(shape: tuple[int, ...], exponents: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_mxfp4(torch.zeros(shape, dtype=torch.uint8), exponents.to(torch.uint8), BFLOAT16)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be torch\.uint8, got torch\.int8"):
        expand_mxfp4(torch.zeros(1, 16, dtype=torch.int8), torch.zeros(1, dtype=torch.uint8), BFLOAT16)


def test_the_default_type_of_torch_changes_nothing() -> None:
    """transformers sets it while it builds a model, in the thread that reads weights too."""
    blocks, exponents = torch.full((4, 16), 0x35, dtype=torch.uint8), torch.full((4,), 130, dtype=torch.uint8)
    expected = expand_mxfp4(blocks, exponents, torch.float32)
    try:
        torch.set_default_dtype(torch.float16)
        assert torch.equal(expand_mxfp4(blocks, exponents, torch.float32), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_byte_of_nvfp4_with_every_scale_is_what_a_loop_gives() -> None:
    scales = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)  # every positive number
    blocks = torch.arange(256, dtype=torch.uint8)[None].expand(127, 256).contiguous()  # [groups, bytes]
    expanded = expand_nvfp4(blocks, scales, torch.tensor([2688.0]), torch.float32).view(127, 256, 2)
    for group, scale in enumerate(scales.float()):
        factor = scale / 2688.0
        numbers = [[E2M1[byte % 16] * factor, E2M1[byte // 16] * factor] for byte in range(256)]
        assert torch.equal(expanded[group], torch.tensor(numbers))


def test_what_is_no_nvfp4_is_refused() -> None:
    blocks, scales = torch.zeros(2, 8, dtype=torch.uint8), torch.ones(2)
    with pytest.raises(ValueError, match=r"scales torch\.float8_e4m3fn, got torch\.uint8, torch\.float32"):
        expand_nvfp4(blocks, scales, torch.ones(1), BFLOAT16)
    float8 = scales.to(torch.float8_e4m3fn)
    for odd, factor in ((float8[:1], torch.ones(1)), (float8, torch.ones(2))):
        with pytest.raises(ValueError, match="each group needs a scale, and the weight one"):
            expand_nvfp4(blocks, odd, factor, BFLOAT16)
