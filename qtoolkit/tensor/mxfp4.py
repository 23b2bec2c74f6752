"""Expand MXFP4: 32 numbers of four bits share a power of two.

OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3.
"""

import torch

# What the four bits of E2M1 mean: a sign, two bits of exponent, one of mantissa.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Numbers that share an exponent, two in a byte.
GROUP_SIZE = 32
# The exponent of E8M0 that stands for NaN, and what is added to the others.
NAN_EXPONENT = 255
_BIAS = 127


def expand_mxfp4(blocks: torch.Tensor, exponents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the numbers that MXFP4 stands for: w = e2m1(code) * 2^(exponent - 127), without rounding in bfloat16.

    Args:
        blocks: uint8 [..., groups, bytes]; the first number of each byte is in its low four bits.
        exponents: uint8 [..., groups], none of them `NAN_EXPONENT`.
        dtype: the type of the result.

    Returns:
        [..., groups * bytes * 2] in `dtype`.

    Raises:
        ValueError: other types, shapes that do not fit, or an exponent that stands for NaN.

    Example: 0x2A holds the codes 10 and 2, -1 and 1; with the exponent 128 they stand for -2 and 2.

        >>> blocks = torch.tensor([[0x2A]], dtype=torch.uint8)
        >>> expand_mxfp4(blocks, torch.tensor([128], dtype=torch.uint8), torch.bfloat16).tolist()
        [-2.0, 2.0]
    """
    if blocks.dtype != torch.uint8 or exponents.dtype != torch.uint8:
        raise ValueError(f"blocks and exponents must be torch.uint8, got {blocks.dtype} and {exponents.dtype}")
    if blocks.shape[:-1] != exponents.shape:
        raise ValueError(
            f"each group needs an exponent, got shapes {list(blocks.shape)} for codes and {list(exponents.shape)}"
        )
    scales = expand_exponents(exponents)  # [..., groups]
    # Each byte as both of its numbers: one look-up instead of two, and no indices of eight bytes for each number.
    pairs = torch.tensor([[E2M1[byte & 15], E2M1[byte >> 4]] for byte in range(256)])  # [256, 2]
    numbers = pairs[blocks.int()].flatten(-2)  # [..., groups, bytes * 2]
    return (numbers * scales.unsqueeze(-1)).to(dtype).flatten(-2)


def expand_exponents(exponents: torch.Tensor) -> torch.Tensor:
    """Return the powers of two that bytes of E8M0 stand for: 2^(byte - 127) in float32, which holds each exactly.

    Args:
        exponents: uint8, any shape.

    Raises:
        ValueError: one stands for NaN.

    Example:
        >>> expand_exponents(torch.tensor([127, 125], dtype=torch.uint8)).tolist()
        [1.0, 0.25]
    """
    if exponents.numel() and exponents.amax() == NAN_EXPONENT:
        raise ValueError(f"an exponent is {NAN_EXPONENT}, which stands for NaN")
    powers = torch.tensor([2.0 ** (byte - _BIAS) for byte in range(NAN_EXPONENT)])
    return powers[exponents.int()]
