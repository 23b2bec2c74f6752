"""Multiply with a weight that is dequantized block by block.

Only one block of outputs is in memory in full precision at a time, never the whole weight.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from qtoolkit.tensor.processor import product_dtype

if TYPE_CHECKING:
    from qtoolkit.kernels.codes import Codes

# Weights that are dequantized at one time. On a CPU the block fits the cache; on a GPU few large kernels are fastest.
BLOCK_WEIGHTS_CPU = 2**19
BLOCK_WEIGHTS_GPU = 2**25

# Outputs that are stored together in the widest layout of packed codes.
OUTPUTS_TOGETHER = 64
# Tokens up to which a bfloat16 product on a CPU takes no longer than dequantizing, measured on a 2048 x 2048 layer.
_FEW_TOKENS = 8


def multiply_blocks(x: torch.Tensor, codes: "Codes", dtype: torch.dtype) -> torch.Tensor:
    """Multiply x[tokens, in] -> x W^T [tokens, out] in x.dtype, computed in `dtype`.

    The inputs must be in the order of the codes (`Codes.order`).
    """
    inputs = x.to(dtype)
    y = x.new_empty(x.shape[0], codes.out_features)
    for outputs in output_blocks(codes):
        weight, factor = codes.unscaled(outputs, dtype)
        part = inputs @ weight
        del weight  # freed before the next block is dequantized
        y[:, outputs] = part if factor is None else part.mul_(factor)
    return y


def multiply_transposed(grad: torch.Tensor, codes: "Codes", dtype: torch.dtype) -> torch.Tensor:
    """Multiply grad[tokens, out] -> grad W [tokens, in] in grad.dtype, computed in `dtype`.

    The inputs of the result are in the order of the codes (`Codes.order`). Blocks are added in float32.
    """
    total = grad.new_zeros(len(grad), codes.in_features, dtype=torch.promote_types(dtype, torch.float32))
    for outputs in output_blocks(codes):
        weight, factor = codes.unscaled(outputs, dtype)
        part = grad[:, outputs]
        scaled = part if factor is None else part * factor.float()
        total += scaled.to(dtype) @ weight.T
        del weight
    return total.to(grad.dtype)


def output_blocks(codes: "Codes") -> Iterator[slice]:
    """Return slices of a weight's outputs to dequantize one after the other.

    All but the last are multiples of 64 outputs, so that no packed layout is cut.
    """
    limit = BLOCK_WEIGHTS_CPU if codes.device.type == "cpu" else BLOCK_WEIGHTS_GPU
    step = max(1, limit // codes.in_features // OUTPUTS_TOGETHER) * OUTPUTS_TOGETHER
    count = codes.out_features
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def expand(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    groups: torch.Tensor | None,
    dtype: torch.dtype,
    *,
    bits: int = 8,
) -> torch.Tensor:
    """Dequantize: return (codes - zero_point) * scale in `dtype`, [in, outputs].

    It is computed in float32, which is exact: a float16 scale has 11 bits, a difference of codes at most 9.

    Args:
        codes: uint8 [in, outputs].
        scale: [groups, outputs] or [1, 1], any floating type.
        zero_point: uint8 of the shape of `scale`, or one number for all.
        groups: the group of each input [in]; None where groups are equal and in the order of the inputs.
        dtype: type of the result.
        bits: size of a code; the smaller ones are expanded faster.
    """
    # [in, outputs] -> [groups, group_size, outputs], or [in, 1, outputs] where `groups` names the group of each input.
    levels = codes.view(len(scale) if groups is None else len(codes), -1, codes.shape[1])
    zero = zero_point if isinstance(zero_point, int) else _spread(zero_point, groups)
    if codes.is_cuda:
        weight = torch.empty(levels.shape, dtype=dtype, device=codes.device)
        # One CUDA kernel rounds once, without a copy in float32.
        torch.mul(levels.to(torch.int16).sub_(zero), _spread(scale, groups).float(), out=weight)
    else:
        # A difference that fits 8 bits with a sign is taken of bytes, a quarter of the memory that floats are.
        if bits < 8 or (isinstance(zero, int) and zero == 128):
            differences = levels.sub(zero).view(torch.int8).float()
        else:
            differences = levels.float().sub_(zero if isinstance(zero, int) else zero.float())
        weight = differences.mul_(_spread(scale, groups).float()).to(dtype)
    return weight.view(codes.shape)


def _spread(values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
    """Return [groups, outputs] as [groups, 1, outputs], or as [in, 1, outputs] where `groups` names the groups."""
    return (values if groups is None else values[groups])[:, None]


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type to multiply in: that of x, or float32 on a CPU where it is faster.

    With few bfloat16 tokens most time goes into dequantizing, which is faster to float32 than to bfloat16.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(x) <= _FEW_TOKENS:
        return torch.float32
    return product_dtype(x.dtype, x.device.type)
