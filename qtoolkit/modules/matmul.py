"""x @ W^T from integer codes, with no copy of the full-precision W.

Blocks of rows of W are turned into numbers, multiplied with, and forgotten. Where one scale serves a whole row, the
block holds the codes themselves, which every type represents exactly (integers up to 254), and the outputs are scaled.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from qtoolkit.tensor import unpack_int4
from qtoolkit.tensor.processor import product_dtype

# Weights that are expanded at one time. On CPU the block stays in the cache; on a GPU a few large kernels are best.
_BLOCK_WEIGHTS_CPU = 2**19
_BLOCK_WEIGHTS_GPU = 2**25

# Tokens up to which a bfloat16 product on CPU takes as long as expanding the weight. Measured on a 2048 x 2048 layer.
_FEW_TOKENS = 8


class QuantizedMatmul(torch.autograd.Function):
    """x[tokens, in] -> x @ W^T [tokens, out] in x.dtype, W = (codes - zero_point) * scale; gradients go to x alone.

    Arguments of `apply`: x; weight, int8 [out, in] or packed uint8 [out, in / 2]; scale [1, 1], [out, 1] or
    [out, in / group_size]; zero_point int8 of the same shape, or None. The backward pass expands the codes again.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None
    ) -> torch.Tensor:
        """See the class."""
        ctx.save_for_backward(weight, scale, zero_point)
        return multiply(x, weight, scale, zero_point, _compute_dtype(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """grad[tokens, out] -> grad @ W [tokens, in]."""
        weight, scale, zero_point = ctx.saved_tensors
        return multiply_transposed(grad, weight, scale, zero_point, _compute_dtype(grad)), None, None, None


def multiply(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """x[tokens, in] -> x @ W^T [tokens, out] in x.dtype, computed in `dtype`."""
    if _takes_int8_kernel(x, scale, zero_point):
        parts = _int8_products(x, weight)
    else:
        inputs, blocks = x.to(dtype), _row_blocks(len(weight), x.shape[1], x.device)
        parts = [linear(inputs, _expand(rows, weight, scale, zero_point, dtype)) for rows in blocks]
    # [tokens, rows] of each block -> [tokens, out]
    y = torch.cat(parts, dim=1)
    return (y.mul_(scale[:, 0]) if _scales_outputs(scale, dtype) else y).to(x.dtype)


def multiply_transposed(
    grad: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """grad[tokens, out] -> grad @ W [tokens, in] in grad.dtype, computed in `dtype`; blocks are added in float32."""
    in_features = weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)
    scaled = (grad * scale[:, 0].float() if _scales_outputs(scale, dtype) else grad).to(dtype)
    total = grad.new_zeros(len(grad), in_features, dtype=torch.promote_types(dtype, torch.float32))
    for rows in _row_blocks(len(weight), in_features, grad.device):
        total += scaled[:, rows] @ _expand(rows, weight, scale, zero_point, dtype)
    return total.to(grad.dtype)


def _compute_dtype(x: torch.Tensor) -> torch.dtype:
    """The type to multiply in: that of x, but float32 on CPU where it is faster.

    Few bfloat16 tokens take their time in expanding the codes, and int8 becomes float32 sooner than bfloat16.
    """
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and len(x) <= _FEW_TOKENS:
        return torch.float32
    return product_dtype(x.dtype, x.device.type)


def _scales_outputs(scale: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the outputs are scaled and not the weights: with one scale for a row.

    Not in float16: a sum of products with whole codes could exceed its largest number, 65504.
    """
    return scale.shape[1] == 1 and dtype != torch.float16


def _takes_int8_kernel(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> bool:
    """Whether torch's bfloat16 x int8 kernel works here and is faster: CPU, symmetric, one scale a row, few tokens."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and len(x) <= _FEW_TOKENS
        and x.shape[1] % 16 == 0  # of other rows it reads past the end, and crashes
        and scale.shape[1] == 1
        and zero_point is None
    )


def _int8_products(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """x @ codes^T in blocks [tokens, rows], by torch's kernel, which gets ones as scales: it takes bfloat16 alone."""
    x = x.contiguous()
    blocks = (slice(None),) if weight.dtype == torch.int8 else _row_blocks(len(weight), x.shape[1], x.device)
    codes = (_codes(weight[rows]) for rows in blocks)
    return [torch._weight_int8pack_mm(x, block, x.new_ones(len(block))) for block in codes]  # noqa: SLF001


def _row_blocks(out_features: int, in_features: int, device: torch.device) -> Iterator[slice]:
    weights = _BLOCK_WEIGHTS_CPU if device.type == "cpu" else _BLOCK_WEIGHTS_GPU
    step = max(1, weights // in_features)
    return (slice(start, start + step) for start in range(0, out_features, step))


def _codes(weight: torch.Tensor) -> torch.Tensor:
    """Rows of a stored weight as codes int8 [rows, in]."""
    return unpack_int4(weight) if weight.dtype == torch.uint8 else weight


def _expand(
    rows: slice, weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Rows of W in `dtype` [rows, in], without their scales where the outputs are scaled."""
    shape = len(weight), scale.shape[1]
    codes = _codes(weight[rows])
    # [rows, in] -> [rows, groups, group_size]
    levels = codes.view(len(codes), shape[1], -1)
    if zero_point is not None:
        # Exact: codes and zero points differ by 254 at most.
        levels = levels.to(dtype).sub_(zero_point.expand(shape)[rows, :, None].to(dtype))
    if _scales_outputs(scale, dtype):
        return levels.to(dtype).view(codes.shape)
    block = torch.empty(levels.shape, dtype=dtype, device=weight.device)
    # The product is taken in float32 and rounded once.
    torch.mul(levels, scale.expand(shape)[rows, :, None].float(), out=block)
    # [rows, groups, group_size] -> [rows, in]
    return block.view(codes.shape)
