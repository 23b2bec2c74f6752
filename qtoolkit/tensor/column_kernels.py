"""Triton kernels that choose the codes of a block of columns, one after the other, in one launch instead of one each.

GPTQ's solver and its refinement go through columns like this; a launch takes longer than a column's arithmetic.
Imported where CUDA tensors come, and nowhere else: Triton comes with torch's packages for CUDA.
"""

import torch
import triton
import triton.language as tl

# Outputs of one program, whose rows of a block stay in registers.
_TILE = 32
# Added and subtracted again, it rounds a float32 of up to 2**22 to a whole number, half to even.
_ROUNDING = tl.constexpr(1.5 * 2.0**23)


def round_columns(
    targets: torch.Tensor,
    error: torch.Tensor,
    lower: torch.Tensor,
    *,
    scale: torch.Tensor,
    inverse: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    groups: torch.Tensor,
) -> torch.Tensor:
    """Round the columns of a block, last to first, each with the errors of those after it.

    Args:
        targets: what columns of other blocks leave of each weight [block, out]; gets what each was when it was rounded,
            less the value of its code.
        error: the weights [block, out]; gets the errors.
        lower: L of the block [block, block], with ones on its diagonal.
        scale, inverse: the scale of each group, and one over it [groups, out].
        low, high: the smallest and the largest level of each group [groups, out].
        groups: the group of each column, int64 [block].

    Returns:
        The levels, whole numbers, float32 [block, out].
    """
    block, out_features = targets.shape
    levels = torch.empty_like(targets)
    _round_columns[(triton.cdiv(out_features, _TILE),)](
        targets,
        error,
        lower.contiguous(),
        scale.contiguous(),
        inverse.contiguous(),
        low.contiguous(),
        high.contiguous(),
        groups,
        levels,
        block,
        out_features,
        BLOCK=triton.next_power_of_2(block),
        TILE=_TILE,
        enable_fp_fusion=True,
    )
    return levels


def change_columns(
    wanted: torch.Tensor, of_others: torch.Tensor, least: torch.Tensor, most: torch.Tensor
) -> torch.Tensor:
    """Round the changes of the columns of a block, first to last, each less what those before it did.

    Args:
        wanted: the change that would be best for each level as they all are [block, out].
        of_others: how much a change of column j, in the row of column k, takes from that of k [block, block].
        least, most: the smallest and largest change of each level [block, out].

    Returns:
        The changes, whole numbers, float32 [block, out].
    """
    block, out_features = wanted.shape
    changes = torch.empty_like(wanted)
    _change_columns[(triton.cdiv(out_features, _TILE),)](
        wanted,
        # Column j is read as a row.
        of_others.T.contiguous(),
        least.contiguous(),
        most.contiguous(),
        changes,
        block,
        out_features,
        BLOCK=triton.next_power_of_2(block),
        TILE=_TILE,
        enable_fp_fusion=True,
    )
    return changes


@triton.jit
def _round_columns(
    targets,
    error,
    lower,
    scale,
    inverse,
    low,
    high,
    groups,
    levels,
    block,
    out_features,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):
    outputs = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_output = outputs < out_features
    rows = tl.arange(0, BLOCK)
    places = rows[:, None] * out_features + outputs[None, :]
    rest = tl.load(targets + places, mask=(rows < block)[:, None] & is_output[None, :], other=0.0)
    for step in range(block):
        column = block - 1 - step
        is_column = (rows == column)[:, None]
        target = tl.sum(tl.where(is_column, rest, 0.0), axis=0)
        place = column * out_features + outputs
        of_group = tl.load(groups + column) * out_features + outputs
        level = target * tl.load(inverse + of_group, mask=is_output, other=0.0)
        smallest = tl.load(low + of_group, mask=is_output, other=0.0)
        largest = tl.load(high + of_group, mask=is_output, other=0.0)
        level = (tl.minimum(tl.maximum(level, smallest), largest) + _ROUNDING) - _ROUNDING
        value = level * tl.load(scale + of_group, mask=is_output, other=0.0)
        left = tl.load(error + place, mask=is_output, other=0.0) - value
        tl.store(levels + place, level, mask=is_output)
        tl.store(error + place, left, mask=is_output)
        tl.store(targets + place, target - value, mask=is_output)
        factors = tl.load(lower + column * block + rows, mask=rows < column, other=0.0)
        rest += factors[:, None] * left[None, :]


@triton.jit
def _change_columns(
    wanted, of_others, least, most, changes, block, out_features, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    outputs = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_output = outputs < out_features
    rows = tl.arange(0, BLOCK)
    places = rows[:, None] * out_features + outputs[None, :]
    rest = tl.load(wanted + places, mask=(rows < block)[:, None] & is_output[None, :], other=0.0)
    for column in range(block):
        is_column = (rows == column)[:, None]
        change = tl.sum(tl.where(is_column, rest, 0.0), axis=0)
        place = column * out_features + outputs
        smallest = tl.load(least + place, mask=is_output, other=0.0)
        largest = tl.load(most + place, mask=is_output, other=0.0)
        change = (tl.minimum(tl.maximum(change, smallest), largest) + _ROUNDING) - _ROUNDING
        tl.store(changes + place, change, mask=is_output)
        factors = tl.load(of_others + column * block + rows, mask=(rows > column) & (rows < block), other=0.0)
        rest -= factors[:, None] * change[None, :]
