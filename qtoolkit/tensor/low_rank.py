"""Approximate a change of a weight by two small matrices, so that outputs on a text change least (QERA, EoRA)."""

from typing import NamedTuple

import torch

# Damping of the Hessian as a share of its mean diagonal, as GPTQ's `damp_percent`.
DAMPING = 0.01
# What keeps rows of A that are alike apart, as a share of their squares.
_ALIKE = 1e-9


class LowRank(NamedTuple):
    """Hold a change of a weight as a product, B A.

    Attributes:
        a: A float32 [rank, in].
        b: B float32 [out, rank].
        share: share of the squared error of the outputs that the product takes away, 0 to 1.
    """

    a: torch.Tensor
    b: torch.Tensor
    share: float


def damped_factor(hessian: torch.Tensor) -> torch.Tensor:
    """Return L, lower triangular [in, in], with L L^T = H + lambda I.

    lambda is `DAMPING` times the mean of H's diagonal, and ten times more each time that H is still singular; of a
    layer without inputs, H = 0, L is the identity.

    Args:
        hessian: H = X^T X float32 [in, in].
    """
    mean = hessian.diagonal().mean()
    if not mean > 0:
        return torch.eye(len(hessian), device=hessian.device)
    identity = torch.eye(len(hessian), device=hessian.device)
    damping = DAMPING * mean
    while True:
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(hessian + damping * identity)
        if not failed:
            return factor
        damping *= 10


def refitted(weighed: torch.Tensor, factor: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return the B [out, rank] for which B A is closest to a change D of a weight, given A: what rounding A has moved.

    By least squares on D L = B (A L). Rows of A that are zero, or alike, get no share of their own.

    Args:
        weighed: D L float32 [out, in].
        factor: L, of `damped_factor`.
        a: A float32 [rank, in].

    Example: of a change (2, 0), A is rounded to half of what it was.

        >>> refitted(torch.tensor([[2.0, 0.0]]), torch.eye(2), torch.tensor([[0.5, 0.0]])).tolist()
        [[4.0]]
    """
    rows = (a @ factor).double()  # [rank, in]
    gram = rows @ rows.T
    # Rows of very different sizes are solved as alike.
    sizes = gram.diagonal().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    alike = gram / sizes[:, None] / sizes
    alike.diagonal().add_(_ALIKE)
    solved: torch.Tensor = torch.linalg.solve(alike, (rows / sizes[:, None]) @ weighed.double().T)
    return (solved / sizes[:, None]).T.float()


def rounded(a: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return A in another type, each number rounded so that it makes good what those before it have changed of A L.

    Rows of A are largest where inputs are small: rounded one by one, they would change outputs by more than the product
    gives back. From the last column to the first, a_j is rounded after (sum_{k > j} d_k L_kj) / L_jj is added, where d
    is A less what it was rounded to (Babai's nearest plane, which is GPTQ's order, from the other end).

    Args:
        a: A float32 [rank, in].
        factor: L, of `damped_factor`.
        dtype: a floating type.
    """
    most = torch.finfo(dtype).max
    found = torch.empty_like(a, dtype=dtype)
    moved = torch.zeros_like(a)
    for column in reversed(range(a.shape[1])):
        after = slice(column + 1, None)
        wanted = a[:, column] + moved[:, after] @ factor[after, column] / factor[column, column]
        found[:, column] = wanted.clamp(-most, most).to(dtype)
        moved[:, column] = a[:, column] - found[:, column].float()
    return found


def low_rank(weighed: torch.Tensor, factor: torch.Tensor, rank: int) -> LowRank:
    """Return the product of this rank that is closest to a change D of a weight on the text of a Hessian.

    With H = L L^T, the squared error of the outputs under D - B A is ||(D - B A) L||^2. Its minimum is the truncated
    singular value decomposition of D L = P S V^T: B = P_r S_r^(1/2), A = S_r^(1/2) V_r^T L^-1 (arXiv 2410.06040,
    theorem 1, with another root of H). It is found from the eigenvectors of the smaller Gram matrix of D L.

    Args:
        weighed: D L float32 [out, in].
        factor: L, of `damped_factor`.
        rank: at most the smaller side of D.

    Example: of diag(3, 1), both inputs alike, rank 1 keeps the 3.

        >>> found = low_rank(torch.diag(torch.tensor([3.0, 1.0])), torch.eye(2), 1)
        >>> (found.b @ found.a).round(decimals=4).tolist(), round(found.share, 4)
        ([[3.0, 0.0], [0.0, 0.0]], 0.9)
    """
    out, inputs = weighed.shape
    is_wide = out <= inputs
    gram = weighed @ weighed.T if is_wide else weighed.T @ weighed
    energies, vectors = torch.linalg.eigh(gram.double())
    largest = vectors[:, -rank:].float()
    left = largest if is_wide else weighed @ largest  # [out, rank]
    right = largest.T @ weighed if is_wide else largest.T  # [rank, in]
    # Half of each singular value on either side, so that both matrices have numbers of like size.
    roots = energies[-rank:].clamp_min(torch.finfo(torch.float32).tiny).float() ** 0.25
    b, right = (left * roots, right / roots[:, None]) if is_wide else (left / roots, right * roots[:, None])
    # A L = right.
    a = torch.linalg.solve_triangular(factor, right, upper=False, left=False)
    total = energies.clamp_min(0).sum().item()
    return LowRank(a, b, energies[-rank:].clamp_min(0).sum().item() / total if total else 0.0)
