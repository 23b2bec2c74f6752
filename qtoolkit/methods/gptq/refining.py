"""Refine solved codes: fit each group's scale again, and choose each column's codes again, with all others as they are.

Both steps lower tr(E A E^T), the error of the outputs, where E = W - W' and A is the damped Hessian, or leave it as it
is. Choosing codes again is coordinate descent (QuIP, arXiv 2307.13304, section 3.1; CDQuant, arXiv 2406.17542); fitting
scales again with the whole Hessian is stage 2 of arXiv 2602.02126.
"""

from dataclasses import replace

import torch

from qtoolkit.methods.gptq.solver import permuted
from qtoolkit.tensor.qparams import QParams, shared_scale

# Columns whose products with all errors are computed at one time.
_BLOCK = 64


def refine(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    damp_percent: float,
    order: torch.Tensor,
    qparams: QParams,
    groups: torch.Tensor,
    codes: torch.Tensor,
    *,
    rounds: int,
) -> tuple[QParams, torch.Tensor, torch.Tensor]:
    """Refine the codes and scales of a weight in turns.

    Args:
        weight: W^T float32 [in, out], as for `solver.solve`.
        hessian: [in, in].
        damp_percent: the damping that `solver.factor` used.
        order: of `solver.column_order`; columns are done in this order.
        qparams: the scales and zero points with which the codes were chosen.
        groups: the group of each column, int64 [in].
        codes: of `solver.solve`, uint8 [in, out].
        rounds: how often scales are fitted and codes chosen again, at least 1.

    Returns:
        the fitted scales with the same zero points, codes uint8 [in, out], and the squared error of each output summed
        over all inputs, float32 [out].

    Example: one weight of 0.9 with a scale of 0.25 and 2 bits has the level 1, the largest; a scale of 0.9 fits it.

        >>> one = torch.ones(1, 1)
        >>> start = QParams(scale=0.25 * one, zero_point=2 * one, bits=2)
        >>> codes = torch.tensor([[3]], dtype=torch.uint8)
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> refined, codes, error = refine(0.9 * one, one, 0.0, zero, start, zero, codes, rounds=1)
        >>> refined.scale.item(), codes.item()
        (0.8984375, 3)
    """
    matrix = permuted(hessian, order, damp_percent)
    group_of = groups[order]
    scale = qparams.scale.clone()
    zero_point = qparams.zero_point[group_of]
    levels = codes[order].to(weight.dtype) - zero_point  # [in, out]
    error = weight[order] - levels * scale[group_of]
    members = [(group_of == group).nonzero()[:, 0] for group in range(len(scale))]
    for _ in range(rounds):
        for group, columns in enumerate(members):
            _fit_scale(matrix, columns, levels, error, scale[group])
        _choose_codes(matrix, levels, error, scale, qparams, group_of)
    loss = (matrix @ error).mul_(error).sum(0)
    refined = torch.empty_like(codes)
    refined[order] = levels.add_(zero_point).to(torch.uint8)
    return replace(qparams, scale=scale), refined, loss


def _fit_scale(
    matrix: torch.Tensor, columns: torch.Tensor, levels: torch.Tensor, error: torch.Tensor, scale: torch.Tensor
) -> None:
    """Change a group's scale [out] and errors in place to the least error with its levels, where that is less.

    The error as a function of the change x of a scale is den x^2 - 2 num x: the minimum is at num / den. The new scale
    is one that float16 and bfloat16 both hold, and keeps its sign.
    """
    rows = matrix[columns]  # [group, in]
    own = levels[columns]  # [group, out]
    num = (rows @ error).mul_(own).sum(0)
    den = (rows[:, columns] @ own).mul_(own).sum(0)
    fitted = shared_scale(scale + torch.where(den > 0, num / den, 0))
    change = fitted - scale
    is_better = (fitted * scale > 0) & (change * (den * change - 2 * num) < 0)
    change = torch.where(is_better, change, 0)
    scale.add_(change)
    error[columns] = error[columns].addcmul_(own, change, value=-1)


def _choose_codes(
    matrix: torch.Tensor,
    levels: torch.Tensor,
    error: torch.Tensor,
    scale: torch.Tensor,
    qparams: QParams,
    group_of: torch.Tensor,
) -> None:
    """Change the levels of one column after the other, and the errors, in place to the least error.

    With all other columns fixed, the error of column k is least where its value is q_k + (A_k E) / A_kk: the nearest
    level is taken.
    """
    low = -qparams.zero_point
    high = 2**qparams.bits - 1 - qparams.zero_point
    inverse = 1 / scale
    scales, inverses, lows, highs = (tensor.unbind(0) for tensor in (scale, inverse, low, high))
    inverse_diagonal = (1 / matrix.diagonal()).tolist()
    group_list = group_of.tolist()
    for start in range(0, len(matrix), _BLOCK):
        stop = min(start + _BLOCK, len(matrix))
        products = matrix[start:stop] @ error  # [block, out]
        block = matrix[start:stop, start:stop]
        changes = torch.empty_like(products)
        for k in range(stop - start):
            group = group_list[start + k]
            product = products[k]
            if k > 0:
                product.addmv_(changes[:k].T, block[k, :k], alpha=-1)
            level = levels[start + k]
            chosen = torch.addcmul(level, product, inverses[group], value=inverse_diagonal[start + k])
            chosen.round_().clamp_(lows[group], highs[group])
            torch.sub(chosen, level, out=changes[k]).mul_(scales[group])
            level.copy_(chosen)
            error[start + k].sub_(changes[k])
