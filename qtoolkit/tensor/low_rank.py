"""Approximate a change of a weight by two small matrices, so that outputs on a text change least (QERA, EoRA)."""

from typing import NamedTuple

import torch

# Damping of the Hessian as a share of its mean diagonal, as GPTQ's `damp_percent`.
DAMPING = 0.01


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
