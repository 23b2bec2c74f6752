"""Products with a weight that is expanded from its codes block by block, and never whole.

Blocks of outputs are turned into numbers, multiplied with, and forgotten.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from qtoolkit.tensor.processor import product_dtype

if TYPE_CHECKING:
    from qtoolkit.kernels.codes import Codes

# Weights that are expanded at one time. On CPU the block stays in the cache; on a GPU a few large kernels are best.
BLOCK_WEIGHTS_CPU = 2**19
BLOCK_WEIGHTS_GPU = 2**25

# Outputs that lie together in the widest layout of packed codes.
_TOGETHER = 64
# Tokens up to which a bfloat16 product on CPU takes as long as expanding the weight. Measured on a 2048 x 2048 layer.
_FEW_TOKENS = 8


def multiply_blocks(x: torch.Tensor, codes: "Codes", dtype: torch.dtype) -> torch.Tensor:
    """x[tokens, in] -> x W^T [tokens, out] in x.dtype, computed in `dtype`; inputs in the order of the codes."""
    inputs = x.to(dtype)
    parts = []
    for outputs in output_blocks(codes):
        part, factor = inputs @ codes.unscaled(outputs, dtype), codes.factor(outputs, dtype)
        parts.append(part if factor is None else part.mul_(factor))
    # [tokens, outputs] of each block -> [tokens, out]
    return torch.cat(parts, dim=1).to(x.dtype)


def multiply_transposed(grad: torch.Tensor, codes: "Codes", dtype: torch.dtype) -> torch.Tensor:
    """grad[tokens, out] -> grad W [tokens, in] in grad.dtype, computed in `dtype`; inputs in the order of the codes.

    Blocks are added in float32.
    """
    total = grad.new_zeros(len(grad), codes.in_features, dtype=torch.promote_types(dtype, torch.float32))
    for outputs in output_blocks(codes):
        part, factor = grad[:, outputs], codes.factor(outputs, dtype)
        scaled = part if factor is None else part * factor.float()
        total += scaled.to(dtype) @ codes.unscaled(outputs, dtype).T
    return total.to(grad.dtype)


def output_blocks(codes: "Codes") -> Iterator[slice]:
    """Return the outputs of a weight in blocks to work on, whole layouts of packed codes but for the last."""
    limit = BLOCK_WEIGHTS_CPU if codes.device.type == "cpu" else BLOCK_WEIGHTS_GPU
    step = max(1, limit // codes.in_features // _TOGETHER) * _TOGETHER
    count = codes.out_features
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def expand(
    codes: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | int,
    groups: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(codes - zero_point) * scale in `dtype`, exact in float32: a float16 scale has 11 bits, a difference at most 9.

    Args:
        codes: uint8 [in, outputs].
        scale: [groups, outputs] or [1, 1], any floating type.
        zero_point: uint8 of the shape of `scale`, or one for all.
        groups: the group of each input [in]; None where equal groups stand in their order.
        dtype: of the result.
    """
    # [in, outputs] -> [groups, group_size, outputs], or [in, 1, outputs] where each input has its own group.
    levels = codes.view(len(scale) if groups is None else len(codes), -1, codes.shape[1])
    zero = zero_point if isinstance(zero_point, int) else _spread(zero_point, groups)
    if codes.is_cuda:
        weight = torch.empty(levels.shape, dtype=dtype, device=codes.device)
        # One kernel that rounds once, and no copy in float32.
        torch.mul(levels.to(torch.int16).sub_(zero), _spread(scale, groups).float(), out=weight)
    else:
        zero = zero if isinstance(zero, int) else zero.float()
        weight = levels.float().sub_(zero).mul_(_spread(scale, groups).float()).to(dtype)
    return weight.view(codes.shape)


def _spread(values: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
    """[groups, outputs] -> [groups, 1, outputs], or [in, 1, outputs] where each input has its own group."""
    return (values if groups is None else values[groups])[:, None]


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the type to multiply in: that of x, but float32 on CPU where it is faster.

    Few bfloat16 tokens take their time in expanding the codes, and codes become float32 sooner than bfloat16.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(x) <= _FEW_TOKENS:
        return torch.float32
    return product_dtype(x.dtype, x.device.type)
