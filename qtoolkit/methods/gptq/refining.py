"""Refine solved codes: fit each group's scale again, and choose its codes again, with all others as they are.

Both steps lower tr(E A E^T), the error of the outputs, where E = W - W' and A is the damped Hessian, or leave it as it
is. Choosing codes again is coordinate descent (QuIP, arXiv 2307.13304, section 3.1; CDQuant, arXiv 2406.17542); fitting
scales again with the whole Hessian is stage 2 of arXiv 2602.02126.
"""

from dataclasses import replace

import torch

from qtoolkit.methods.gptq.solver import permuted
from qtoolkit.tensor.qparams import QParams, shared_scale
from qtoolkit.tensor.triton_check import runs_triton

# Columns of a group whose products with all errors are in memory at one time.
BLOCK = 128


def refine(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    damp_percent: float,
    order: torch.Tensor,
    qparams: QParams,
    groups: torch.Tensor,
    codes: torch.Tensor,
    loss: torch.Tensor,
    *,
    rounds: int,
) -> tuple[QParams, torch.Tensor, torch.Tensor]:
    """Refine the codes and scales of a weight: `rounds` times, group after group, its scale and then its codes.

    One product of a group's rows of the Hessian with all errors serves both steps, so that a round takes twice the
    operations of the solver. Groups come in the order of their first columns.

    Args:
        weight: W^T float32 [in, out], as for `solver.solve`.
        hessian: [in, in].
        damp_percent: the damping that `solver.factor` used.
        order: of `solver.column_order`; the columns of a group are done in this order.
        qparams: the scales and zero points with which the codes were chosen.
        groups: the group of each column, int64 [in]; all have the same number of columns.
        codes: of `solver.solve`, uint8 [in, out].
        loss: of `solver.solve`, [out]. An output whose error is not less in the end stays as it was, which in float32
            happens where nothing was left to gain.
        rounds: at least 1.

    Returns:
        the fitted scales with the same zero points, codes uint8 [in, out], and the squared error of each output summed
        over all inputs, float32 [out].

    Example: one weight of 0.9 with a scale of 0.25 and 2 bits has the level 1, the largest; a scale of 0.9 fits it.

        >>> one = torch.ones(1, 1)
        >>> start = QParams(scale=0.25 * one, zero_point=2 * one, bits=2)
        >>> codes, loss = torch.tensor([[3]], dtype=torch.uint8), torch.tensor([0.65**2])
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> refined, codes, loss = refine(0.9 * one, one, 0.0, zero, start, zero, codes, loss, rounds=1)
        >>> refined.scale.item(), codes.item()
        (0.8984375, 3)
    """
    visited, place = _by_group(order, groups)
    size = len(place) // len(visited)
    matrix = permuted(hessian, place, damp_percent)
    error = weight[place]
    levels = codes[place].to(weight.dtype)
    scale = qparams.scale.clone()
    parts = [(group, slice(start * size, (start + 1) * size)) for start, group in enumerate(visited)]
    for group, columns in parts:
        error[columns].addcmul_(levels[columns].sub_(qparams.zero_point[group]), scale[group], value=-1)
    for _ in range(rounds):
        for group, columns in parts:
            low = -qparams.zero_point[group]
            high = low + 2**qparams.bits - 1
            _refine_group(matrix, columns, levels, error, scale[group], low, high, largest=qparams.largest)
    refined = torch.zeros_like(loss)
    for group, columns in parts:
        refined += (matrix[columns] @ error).mul_(error[columns]).sum(0)
        levels[columns] += qparams.zero_point[group]
    is_better = refined < loss
    chosen = torch.empty_like(codes)
    chosen[place] = levels.to(torch.uint8)
    return (
        replace(qparams, scale=torch.where(is_better, scale, qparams.scale)),
        torch.where(is_better, chosen, codes),
        torch.where(is_better, refined, loss),
    )


def _by_group(order: torch.Tensor, groups: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Return the groups in the order of their first columns, and all columns, group after group, int64 [in]."""
    rank = order.argsort()
    first = torch.full_like(groups[: int(groups.max()) + 1], len(order)).scatter_reduce(0, groups, rank, "amin")
    return first.argsort().tolist(), order[first[groups[order]].argsort(stable=True)]


def _refine_group(
    matrix: torch.Tensor,
    columns: slice,
    levels: torch.Tensor,
    error: torch.Tensor,
    scale: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    *,
    largest: float,
) -> None:
    """Change a group's scale [out], its levels and its errors in place to a smaller error of the outputs.

    The error as a function of the change x of a scale is reach x^2 - 2 gain x: least at gain / reach. The new scale is
    one that float16 and bfloat16 both hold, and keeps its sign; it is taken if the error is less with it, and no code
    stands for more than `largest`.

    Args:
        matrix: the damped Hessian A [in, in].
        columns: those of the group.
        levels: codes less the zero point [in, out].
        error: E^T [in, out].
        scale: [out].
        low, high: the smallest and largest level [out].
        largest: the largest magnitude that a code may stand for.
    """
    own = levels[columns]
    blocks = [slice(start, min(start + BLOCK, columns.stop)) for start in range(columns.start, columns.stop, BLOCK)]
    gain, reach = torch.zeros_like(scale), torch.zeros_like(scale)
    for block in blocks:
        product = matrix[block] @ error  # [block, out]
        of_levels = matrix[block, columns] @ own  # [block, out]
        gain += (product * levels[block]).sum(0)
        reach += (of_levels * levels[block]).sum(0)
    fitted = scale + torch.where(reach > 0, gain / reach, 0)
    fitted_scale = shared_scale(fitted)
    change = fitted_scale - scale
    is_better = (fitted * scale > 0) & (change * (reach * change - 2 * gain) < 0)
    is_better &= fitted_scale.abs() * torch.maximum(-low, high) <= largest
    change = torch.where(is_better, change, 0)
    scale += change
    error[columns].addcmul_(own, change, value=-1)
    for block in blocks:
        product = product.addcmul_(of_levels, change, value=-1) if len(blocks) == 1 else matrix[block] @ error
        _choose_codes(product, matrix[block, block], levels[block], error[block], scale, low, high)


def _choose_codes(
    product: torch.Tensor,
    block: torch.Tensor,
    levels: torch.Tensor,
    error: torch.Tensor,
    scale: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> None:
    """Change the levels of one column after the other, and the errors, in place to the least error of the outputs.

    With all other columns fixed, the error of column k is least where its value is q_k + (A_k E) / A_kk: the nearest
    level is taken, at a tie the one that it has.

    Args:
        product: A_k E of all columns k of the block [block, out]; is overwritten.
        block: A of the block [block, block].
        levels, error, scale, low, high: as for `_refine_group`, of the block.
    """
    inverse = 1 / block.diagonal()[:, None]
    # In units of the scale, which is the same in the whole block.
    wanted = product.mul_(inverse).div_(scale)
    of_others = block * inverse
    least, most = low - levels, high - levels
    if wanted.is_cuda and runs_triton(wanted.device, _kernel_agrees):
        changes = _changes_by_kernel(wanted, of_others, least, most)
    else:
        changes = _changes(wanted, of_others, least, most)
    levels += changes
    error.addcmul_(changes, scale, value=-1)


def _changes(wanted: torch.Tensor, of_others: torch.Tensor, least: torch.Tensor, most: torch.Tensor) -> torch.Tensor:
    """Return the changes of the levels of a block's columns [block, out], whole numbers, one column after the other.

    Args:
        wanted: the best change of each level, with all others as they are [block, out]; is overwritten.
        of_others: what a change of column j takes from that of column k, in row k [block, block].
        least, most: the smallest and largest change of each level [block, out].
    """
    changes = torch.empty_like(wanted)
    for k, (row, change) in enumerate(zip(wanted, changes, strict=True)):
        if k > 0:
            row.addmv_(changes[:k].T, of_others[k, :k], alpha=-1)
        # Half a level is rounded to the even number 0.
        torch.round(row, out=change).clamp_(least[k], most[k])
    return changes


def _changes_by_kernel(
    wanted: torch.Tensor, of_others: torch.Tensor, least: torch.Tensor, most: torch.Tensor
) -> torch.Tensor:
    """Return what `_changes` does, up to ties, in one launch on a GPU."""
    from qtoolkit.tensor.column_kernels import change_columns

    return change_columns(wanted, of_others, least, most)


def _kernel_agrees(device: torch.device) -> bool:
    """Check whether the kernel chooses the changes on a device that torch's operations do; of quarters, exactly."""
    wanted = (torch.arange(24 * 40, device=device).view(24, 40) * 37 % 101 - 50).float() / 4
    of_others = (torch.arange(24 * 24, device=device).view(24, 24) % 3 - 1).float() / 2
    least, most = torch.full_like(wanted, -3), torch.full_like(wanted, 4)
    theirs = _changes(wanted.clone(), of_others, least, most)
    return torch.equal(theirs, _changes_by_kernel(wanted, of_others, least, most))
