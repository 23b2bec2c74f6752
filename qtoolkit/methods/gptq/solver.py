"""The GPTQ solver: choose codes column by column, compensating each column's error in the columns not yet done.

GPTQ (arXiv 2210.17323, algorithm 1) uses the Cholesky factor of the inverse Hessian. The Cholesky factor of the Hessian
itself gives the same codes, with the columns in reverse: LDLQ (QuIP, arXiv 2307.13304, section 3.2), Babai's nearest
plane (arXiv 2507.18553). That needs no inverse and a quarter of the operations.
"""

from typing import NamedTuple, Self

import torch

from qtoolkit.errors import QToolkitError
from qtoolkit.tensor.block_search import Codebook
from qtoolkit.tensor.qparams import QParams
from qtoolkit.tensor.triton_check import runs_triton

# Columns that are done before one product adds their errors to all remaining columns.
_BLOCK = 64


class SingularHessianError(QToolkitError):
    """Raised for a Hessian that has no Cholesky factor, however much it is damped."""


def column_order(importance: torch.Tensor, order: str) -> torch.Tensor:
    """Return the order in which columns are done, int64 [in].

    Args:
        importance: the Hessian's diagonal [in].
        order: "activation" for the largest importance first, or "natural" for the order of the inputs.
    """
    if order == "natural":
        return torch.arange(len(importance), device=importance.device)
    return importance.argsort(descending=True, stable=True)


def permuted(hessian: torch.Tensor, order: torch.Tensor, damp_percent: float) -> torch.Tensor:
    """Return P H P^T + damp * mean(diag H) * I [in, in], the damped Hessian with its columns in an order.

    Args:
        hessian: [in, in]; zero rows (dead inputs) get 1 on the diagonal.
        order: int64 [in].
        damp_percent: the damping, as a share of the mean of the diagonal.
    """
    diagonal = hessian.diagonal()
    matrix = hessian[order[:, None], order]
    matrix.diagonal().add_(damp_percent * diagonal.mean())
    matrix.diagonal()[(diagonal == 0)[order]] = 1
    return matrix


def factor(hessian: torch.Tensor, order: torch.Tensor, damp_percent: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Compute L and d of P H P^T + damp * mean(diag H) * I = L diag(d) L^T, columns in reverse order.

    Args:
        hessian: float32 or float64 [in, in]; zero rows (dead inputs) get 1 on the diagonal.
        order: of `column_order`; P is its reverse.
        damp_percent: the first damping to try; it is doubled, up to 1, until the factor exists.

    Returns:
        L [in, in] with ones on its diagonal, d [in], and the damping that was used.

    Raises:
        SingularHessianError: no factor exists with a damping of 1, or H holds NaN or infinity.
    """
    reverse = order.flip(0)
    if not hessian.diagonal().mean().isfinite():
        raise SingularHessianError("its inputs hold NaN or infinity")
    damp = damp_percent
    while True:
        lower = permuted(hessian, reverse, damp)
        info = torch.empty((), dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if info.item() == 0:
            break
        if damp >= 1:
            raise SingularHessianError("its Hessian stays singular with a damping of 1")
        damp = min(1.0, 2 * damp)
    diagonal = lower.diagonal().clone()
    return lower.div_(diagonal), diagonal.square_(), damp


def solve(
    weight: torch.Tensor,
    lower: torch.Tensor,
    diagonal: torch.Tensor,
    order: torch.Tensor,
    qparams: QParams,
    groups: torch.Tensor,
    codebook: Codebook | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the codes of a weight, and measure the error that they cause in the outputs.

    With the columns in reverse order and E = W - W', the error tr(E H E^T) is the sum over columns k, last to first, of
    d_k (e_k + sum_{j>k} e_j L_jk)^2. So column k is rounded to the code next to w_k + sum_{j>k} e_j L_jk.

    Args:
        weight: W^T float32 [in, out].
        lower, diagonal: of `factor`.
        order: of `column_order`.
        qparams: scale and zero point of each group.
        groups: the group of each column, int64 [in].
        codebook: the numbers that are multiplied by the scales, where these are not codes less zero points.

    Returns:
        codes uint8 [in, out], and the squared error of each output summed over all inputs, float32 [out].
    """
    in_features, out_features = weight.shape
    reverse = order.flip(0)
    error = weight[reverse]
    codes = torch.empty(in_features, out_features, dtype=torch.uint8, device=weight.device)
    loss = weight.new_zeros(out_features)
    grid = _Grid.of(qparams)
    ordered = groups[reverse]
    by_kernel = codebook is None and weight.is_cuda and runs_triton(weight.device, _kernel_agrees)
    for stop in range(in_features, 0, -_BLOCK):
        start = max(0, stop - _BLOCK)
        targets = torch.addmm(error[start:stop], lower[stop:, start:stop].T, error[stop:])
        columns = _Columns(targets, error[start:stop], lower[start:stop, start:stop], ordered[start:stop])
        levels = columns.rounded_by_kernel(grid) if by_kernel else columns.rounded(grid, codebook)
        loss.addmv_(targets.square_().T, diagonal[start:stop])
        if codebook is None:
            codes[reverse[start:stop]] = levels.add_(qparams.zero_point[ordered[start:stop]]).to(torch.uint8)
        else:
            codes[reverse[start:stop]] = codebook.codes(levels)
    return codes, loss


class _Grid(NamedTuple):
    """The levels that columns are rounded to, of each group and output, [groups, out].

    Attributes:
        scale, inverse: what levels are multiplied by, and one over it.
        low, high: the smallest and the largest level.
        rows: the four of each group, as views made once: a slice takes as long as a product of one row.
    """

    scale: torch.Tensor
    inverse: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    rows: list[tuple[torch.Tensor, ...]]

    @classmethod
    def of(cls, qparams: QParams) -> Self:
        """Return the grid of scales and zero points."""
        low = -qparams.zero_point
        tensors = (qparams.scale, 1 / qparams.scale, low, low + (2**qparams.bits - 1))
        return cls(*tensors, rows=list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True)))


class _Columns(NamedTuple):
    """The columns of a block, which are rounded in reverse order; errors and targets are changed in place.

    Attributes:
        targets: what the errors of later blocks make of each weight [block, out]; in the end less its code's value.
        error: the weights [block, out]; in the end the errors.
        lower: L of the block [block, block].
        groups: the group of each column, int64 [block].
    """

    targets: torch.Tensor
    error: torch.Tensor
    lower: torch.Tensor
    groups: torch.Tensor

    def rounded(self, grid: _Grid, codebook: Codebook | None) -> torch.Tensor:
        """Return the levels [block, out], of the grid or of a codebook, chosen with torch's operations."""
        levels = torch.empty_like(self.targets)
        for k, group in reversed(list(enumerate(self.groups.tolist()))):
            scale, inverse, low, high = grid.rows[group]
            row = self.targets[k]
            if k < len(levels) - 1:
                row.addmv_(self.error[k + 1 :].T, self.lower[k + 1 :, k])
            level = torch.mul(row, inverse, out=levels[k])
            if codebook is None:
                level.round_().clamp_(low, high)
            else:
                level.copy_(codebook.nearest(level))
            self.error[k].addcmul_(level, scale, value=-1)
            row.addcmul_(level, scale, value=-1)
        return levels

    def rounded_by_kernel(self, grid: _Grid) -> torch.Tensor:
        """Return what `rounded` does without a codebook, up to ties, in one launch on a GPU."""
        from qtoolkit.tensor.column_kernels import round_columns

        return round_columns(
            self.targets,
            self.error,
            self.lower,
            scale=grid.scale,
            inverse=grid.inverse,
            low=grid.low,
            high=grid.high,
            groups=self.groups,
        )


def _kernel_agrees(device: torch.device) -> bool:
    """Check whether the kernel chooses the codes on a device that torch's operations do; of whole numbers, exactly."""
    weight = (torch.arange(24 * 40, device=device).view(24, 40) * 37 % 101 - 50).float()
    lower = (torch.arange(24 * 24, device=device).view(24, 24) % 3 - 1).float().tril(-1).fill_diagonal_(1)
    groups = torch.arange(24, device=device) // 8
    scale = torch.tensor([2.0, -4.0, 8.0], device=device)[:, None].expand(3, 40).contiguous()
    grid = _Grid.of(QParams(scale, torch.full_like(scale, 8), bits=4))
    ours, theirs = (_Columns(weight.clone(), weight.clone(), lower, groups) for _ in range(2))
    same = torch.equal(theirs.rounded(grid, None), ours.rounded_by_kernel(grid))
    return same and torch.equal(theirs.error, ours.error) and torch.equal(theirs.targets, ours.targets)
