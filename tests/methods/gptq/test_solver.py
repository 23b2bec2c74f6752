"""The solver gives the codes of the paper's algorithm, written out literally, on random problems."""

import pytest
import torch

from qtoolkit.methods.gptq.solver import SingularHessianError, column_order, factor, solve
from qtoolkit.tensor.qparams import QParams, search_qparams

pytestmark = pytest.mark.once

IN, OUT = 96, 40


def literal(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    qparams: QParams,
    groups: torch.Tensor,
    order: torch.Tensor,
    damp: float,
) -> torch.Tensor:
    """Algorithm 1 of arXiv 2210.17323 without its blocks: codes [out, in] for W[out, in], columns in this order."""
    w, h = weight[:, order].clone(), hessian[order][:, order].clone()
    h += damp * hessian.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    upper = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    codes = torch.zeros_like(w)
    for column, original in enumerate(order.tolist()):
        scale, zero = qparams.scale[groups[original]], qparams.zero_point[groups[original]]
        code = (w[:, column] / scale + zero).round().clamp(0, 2**qparams.bits - 1)
        codes[:, original] = code
        error = (w[:, column] - (code - zero) * scale) / upper[column, column]
        w[:, column:] -= error[:, None] * upper[column, column:]
    return codes


def problem(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight W[out, in], and the Hessian of inputs whose channels are correlated and of different strength."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(IN, IN, generator=generator, dtype=torch.float64)
    strength = torch.rand(IN, generator=generator, dtype=torch.float64) * 3
    inputs = torch.randn(400, IN, generator=generator, dtype=torch.float64) @ mix * strength
    return torch.randn(OUT, IN, generator=generator, dtype=torch.float64), inputs.T @ inputs


def qparams_of(weight: torch.Tensor, hessian: torch.Tensor, bits: int, size: int, sym: bool) -> QParams:
    importance = hessian.diagonal()
    return search_qparams(
        weight.T.contiguous(), importance, bits=bits, group_size=size, sym=sym, full_range=sym, steps=10, smallest=0.5
    )


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("sym", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("size", [32, IN], ids=["groups of 32", "one group"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_those_of_the_paper(bits: int, size: int, sym: bool, order: str) -> None:
    weight, hessian = problem(seed=bits)
    qparams = qparams_of(weight, hessian, bits, size, sym)
    groups = torch.arange(IN) // size
    columns = column_order(hessian.diagonal(), order)
    lower, diagonal, damp = factor(hessian, columns, 0.05)
    codes, _ = solve(weight.T.contiguous(), lower, diagonal, columns, qparams, groups)
    assert damp == 0.05
    assert torch.equal(codes.T.double(), literal(weight, hessian, qparams, groups, columns, damp))


def test_codes_are_those_of_the_paper_when_groups_are_formed_in_order_of_activation() -> None:
    weight, hessian = problem(seed=11)
    columns = column_order(hessian.diagonal(), "activation")
    groups = torch.empty(IN, dtype=torch.int64)
    groups[columns] = torch.arange(IN) // 32
    members = groups.argsort(stable=True)
    qparams = qparams_of(weight[:, members], hessian[members][:, members], 4, 32, sym=True)
    lower, diagonal, damp = factor(hessian, columns, 0.05)
    codes, _ = solve(weight.T.contiguous(), lower, diagonal, columns, qparams, groups)
    assert torch.equal(codes.T.double(), literal(weight, hessian, qparams, groups, columns, damp))


def test_the_loss_is_the_error_of_the_outputs() -> None:
    weight, hessian = problem(seed=3)
    qparams, groups = qparams_of(weight, hessian, 3, 32, sym=False), torch.arange(IN) // 32
    columns = column_order(hessian.diagonal(), "activation")
    lower, diagonal, damp = factor(hessian, columns, 0.05)
    codes, loss = solve(weight.T.contiguous(), lower, diagonal, columns, qparams, groups)
    rounded = ((codes.double() - qparams.zero_point[groups]) * qparams.scale[groups]).T
    damped = hessian + damp * hessian.diagonal().mean() * torch.eye(IN, dtype=torch.float64)
    difference = weight - rounded
    assert torch.allclose(loss, (difference @ damped * difference).sum(1), rtol=1e-9)


def test_it_is_better_than_rounding() -> None:
    weight, hessian = problem(seed=4)
    qparams, groups = qparams_of(weight, hessian, 4, 32, sym=True), torch.arange(IN) // 32
    columns = column_order(hessian.diagonal(), "activation")
    _, loss = solve(weight.T.contiguous(), *factor(hessian, columns, 0.05)[:2], columns, qparams, groups)
    scale = qparams.scale[groups].T
    difference = weight - (weight / scale).round().clamp(-8, 7) * scale
    assert loss.sum() < 0.7 * (difference @ hessian * difference).sum()


def test_an_input_that_is_always_zero_is_rounded_and_disturbs_nothing() -> None:
    weight, hessian = problem(seed=5)
    hessian[7], hessian[:, 7] = 0, 0
    qparams, groups = qparams_of(weight, hessian, 4, 32, sym=True), torch.arange(IN) // 32
    columns = column_order(hessian.diagonal(), "natural")
    codes, _ = solve(weight.T.contiguous(), *factor(hessian, columns, 0.05)[:2], columns, qparams, groups)
    nearest = (weight[:, 7] / qparams.scale[0] + 8).round().clamp(0, 15)
    assert torch.equal(codes[7].double(), nearest)


def test_damping_is_raised_and_told_when_it_is_too_small() -> None:
    # Of rank one, and with an error that makes it indefinite.
    hessian = torch.ones(8, 8, dtype=torch.float64) - 0.3 * torch.eye(8, dtype=torch.float64)
    _, _, damp = factor(hessian, torch.arange(8), 0.1)
    assert damp in (0.8, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_hessian_that_is_no_number_is_refused(value: float) -> None:
    hessian = torch.eye(8)
    hessian[2, 2] = value
    with pytest.raises(SingularHessianError, match="NaN or infinity"):
        factor(hessian, torch.arange(8), 0.05)


def test_a_hessian_that_no_damping_helps_is_refused() -> None:
    with pytest.raises(SingularHessianError, match="stays singular"):
        factor(torch.ones(4, 4) - 4 * torch.eye(4), torch.arange(4), 0.05)


def test_what_it_is_given_stays_as_it_was() -> None:
    weight, hessian = problem(seed=6)
    kept = weight.clone(), hessian.clone()
    qparams = qparams_of(weight, hessian, 4, 32, sym=True)
    columns = column_order(hessian.diagonal(), "activation")
    solve(weight.T, *factor(hessian, columns, 0.05)[:2], columns, qparams, torch.arange(IN) // 32)
    assert torch.equal(weight, kept[0]) and torch.equal(hessian, kept[1])
