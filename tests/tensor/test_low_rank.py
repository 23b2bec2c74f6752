"""The product of two small matrices that changes outputs least, against a singular value decomposition in float64."""

import pytest
import torch

from qtoolkit.tensor.low_rank import DAMPING, damped_factor, low_rank

pytestmark = pytest.mark.once


def error(change: torch.Tensor, hessian: torch.Tensor) -> float:
    """The squared error of outputs, tr(D H D^T)."""
    return float((change @ hessian * change).sum())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)], ids=str)
@pytest.mark.parametrize("rank", [1, 5, 24])
def test_no_product_of_the_rank_is_closer(shape: tuple[int, int], rank: int) -> None:
    torch.manual_seed(0)
    out, inputs = shape
    x = torch.randn(200, inputs) * torch.logspace(0, 1, inputs)
    change = torch.randn(out, inputs)
    hessian = x.T @ x
    factor = damped_factor(hessian)
    found = low_rank(change @ factor, factor, rank)
    assert found.a.shape == (rank, inputs) and found.b.shape == (out, rank)
    # Eckart and Young with the symmetric root of the same damped Hessian.
    damped = hessian.double() + DAMPING * hessian.double().diagonal().mean() * torch.eye(inputs)
    energies, vectors = torch.linalg.eigh(damped)
    root = vectors * energies.sqrt() @ vectors.T
    values = torch.linalg.svdvals(change.double() @ root).square()
    left = error(change.double() - found.b.double() @ found.a.double(), damped)
    assert left == pytest.approx(float(values[rank:].sum()), rel=1e-3, abs=1e-4 * float(values.sum()))
    assert found.share == pytest.approx(float(values[:rank].sum() / values.sum()), rel=1e-4)


def test_a_hessian_without_inputs_weighs_all_alike() -> None:
    assert torch.equal(damped_factor(torch.zeros(4, 4)), torch.eye(4))


def test_a_singular_hessian_is_damped() -> None:
    x = torch.ones(3, 64)
    factor = damped_factor(x.T @ x)
    assert factor.isfinite().all()
    assert torch.allclose(factor @ factor.T, x.T @ x + DAMPING * 3 * torch.eye(64), atol=1e-3)


def test_a_hessian_that_rounding_has_made_negative_is_damped_more() -> None:
    hessian = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.03]))
    factor = damped_factor(hessian)
    damping = 10 * DAMPING * hessian.diagonal().mean()
    assert torch.allclose(factor @ factor.T, hessian + damping * torch.eye(4), atol=1e-6)


def test_matrices_share_their_size() -> None:
    torch.manual_seed(0)
    found = low_rank(torch.randn(16, 16), torch.eye(16), 4)
    assert found.a.norm() == pytest.approx(float(found.b.norm()), rel=1e-4)


def test_a_layer_that_lost_nothing() -> None:
    found = low_rank(torch.zeros(8, 8), torch.eye(8), 2)
    assert found.share == 0 and torch.equal(found.b @ found.a, torch.zeros(8, 8))
