"""Expand MXFP4 and NVFP4: 32 numbers of four bits share a power of two, or 16 of them a float8.

OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 (E2M1), 5.4.1 (E8M0) and 6.3. NVFP4: compressed-tensors
0.20, compressors/nvfp4; NVIDIA, Pretraining Large Language Models with NVFP4, arXiv 2509.25149, section 2.
"""

import torch

# What the four bits of E2M1 mean: a sign, two bits of exponent, one of mantissa.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Numbers that share an exponent of MXFP4, or a float8 of NVFP4; two in a byte.
GROUP_SIZE = 32
NVFP4_GROUP_SIZE = 16
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
    return (_numbers(blocks) * expand_exponents(exponents).unsqueeze(-1)).to(dtype).flatten(-2)


def expand_nvfp4(
    blocks: torch.Tensor, scales: torch.Tensor, global_scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Return the numbers that NVFP4 stands for: w = e2m1(code) * (scale / global_scale), in float32, rounded once.

    Args:
        blocks: uint8 [..., groups, bytes]; the first number of each byte is in its low four bits.
        scales: float8_e4m3fn [..., groups], without NaN.
        global_scale: one number for the weight, float32.
        dtype: the type of the result.

    Returns:
        [..., groups * bytes * 2] in `dtype`.

    Raises:
        ValueError: other types, or shapes that do not fit.

    Example: 0x2A holds -1 and 1; the scale 6 with the global scale 4 stands for 1.5.

        >>> blocks = torch.tensor([[0x2A]], dtype=torch.uint8)
        >>> scales = torch.tensor([6.0]).to(torch.float8_e4m3fn)
        >>> expand_nvfp4(blocks, scales, torch.tensor([4.0]), torch.float32).tolist()
        [-1.5, 1.5]
    """
    if blocks.dtype != torch.uint8 or scales.dtype != torch.float8_e4m3fn:
        raise ValueError(
            f"blocks must be torch.uint8 and scales torch.float8_e4m3fn, got {blocks.dtype}, {scales.dtype}"
        )
    if blocks.shape[:-1] != scales.shape or global_scale.numel() != 1:
        raise ValueError(
            f"each group needs a scale, and the weight one, got shapes {list(blocks.shape)} for codes, "
            f"{list(scales.shape)} and {list(global_scale.shape)}"
        )
    factors = scales.float() / global_scale.float().reshape(())
    return (_numbers(blocks) * factors.unsqueeze(-1)).to(dtype).flatten(-2)


def _numbers(blocks: torch.Tensor) -> torch.Tensor:
    """Return both numbers of each byte, float32 [..., groups, bytes * 2]."""
    # Each byte as both of its numbers: one look-up instead of two, and no indices of eight bytes for each number.
    pairs = torch.tensor([[E2M1[byte & 15], E2M1[byte >> 4]] for byte in range(256)])  # [256, 2]
    return pairs[blocks.int()].flatten(-2)


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
