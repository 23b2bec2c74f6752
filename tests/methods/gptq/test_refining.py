"""Refining scales and codes, against a literal implementation in float64 that computes every error anew."""

import itertools
import math

import numpy as np
import pytest
import torch

from qtoolkit.methods.gptq.refining import refine
from qtoolkit.methods.gptq.solver import column_order, factor, permuted, solve
from qtoolkit.tensor.qparams import QParams, search_qparams
from tests.methods.gptq.test_solver import IN, problem

pytestmark = pytest.mark.once

DAMP = 0.01
KINDS = {"positive": (True, False), "full range": (True, True), "asymmetric": (False, False)}


class Solved:
    """A weight with its Hessian, solved and not refined yet, in float64."""

    def __init__(self, *, bits: int, kind: str, size: int = 32, order: str = "activation", seed: int = 0) -> None:
        weight, self.hessian = problem(seed=seed)
        self.weight = weight.T.contiguous()
        self.order = column_order(self.hessian.diagonal(), order)
        sym, full_range = KINDS[kind]
        self.groups = torch.arange(IN) // size
        self.qparams = search_qparams(
            self.weight,
            self.hessian.diagonal(),
            bits=bits,
            group_size=size,
            sym=sym,
            full_range=full_range,
            steps=10,
            smallest=0.5,
        )
        lower, diagonal, self.damp = factor(self.hessian, self.order, DAMP)
        self.codes, self.loss = solve(self.weight, lower, diagonal, self.order, self.qparams, self.groups)

    def refined(self, rounds: int) -> tuple[QParams, torch.Tensor, torch.Tensor]:
        return refine(
            self.weight, self.hessian, self.damp, self.order, self.qparams, self.groups, self.codes, rounds=rounds
        )


def eight_bits(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 256) / 256, exponent)


def literally(solved: Solved, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and codes after rounds of both steps, one output at a time, each step the least of its parabola."""
    matrix = permuted(solved.hessian, torch.arange(IN), solved.damp).numpy()
    scales, codes = solved.qparams.scale.numpy().copy(), solved.codes.numpy().astype(float)
    zeros, groups = solved.qparams.zero_point.numpy(), solved.groups.numpy()
    for output in range(codes.shape[1]):
        target = solved.weight[:, output].numpy()

        def error_of(scale: np.ndarray, code: np.ndarray, output: int = output, target: np.ndarray = target) -> float:
            error = target - scale[groups] * (code - zeros[groups, output])
            return float(error @ matrix @ error)

        scale, code = scales[:, output].copy(), codes[:, output].copy()
        for _ in range(rounds):
            for group in range(len(scale)):
                error = target - scale[groups] * (code - zeros[groups, output])
                level = np.where(groups == group, code - zeros[groups, output], 0)
                if not level.any():
                    continue
                changed = scale.copy()
                changed[group] = eight_bits(scale[group] + (level @ matrix @ error) / (level @ matrix @ level))
                if changed[group] * scale[group] > 0 and error_of(changed, code) < error_of(scale, code):
                    scale = changed
            for column in solved.order.tolist():
                # Every code that the column could have, by its error.
                trials = []
                for trial in range(2**solved.qparams.bits):
                    changed = code.copy()
                    changed[column] = trial
                    trials.append(error_of(scale, changed))
                code[column] = int(np.argmin(trials))
        scales[:, output], codes[:, output] = scale, code
    return scales, codes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_does_what_the_formulas_say(bits: int, kind: str) -> None:
    solved = Solved(bits=bits, kind=kind, seed=bits)
    scales, codes = literally(solved, rounds=2)
    qparams, refined, _ = solved.refined(rounds=2)
    assert torch.equal(qparams.scale, torch.from_numpy(scales))
    assert np.array_equal(refined.numpy(), codes.astype(np.uint8))


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("size", [32, IN], ids=["groups of 32", "one group"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_round_makes_the_error_larger(bits: int, kind: str, size: int, order: str) -> None:
    solved = Solved(bits=bits, kind=kind, size=size, order=order, seed=7)
    losses = [solved.loss, *(solved.refined(rounds=rounds)[2] for rounds in (1, 2, 4))]
    for before, after in itertools.pairwise(losses):
        assert (after <= before * (1 + 1e-9)).all()
    assert losses[1].sum() < 0.999 * losses[0].sum()


def test_the_error_is_that_of_what_it_returns() -> None:
    solved = Solved(bits=3, kind="full range")
    qparams, codes, loss = solved.refined(rounds=2)
    weight = (codes - qparams.zero_point[solved.groups]) * qparams.scale[solved.groups]
    error = solved.weight - weight
    matrix = permuted(solved.hessian, torch.arange(IN), solved.damp)
    torch.testing.assert_close(loss, (error * (matrix @ error)).sum(0))


def test_scales_fit_both_types_and_keep_their_signs() -> None:
    solved = Solved(bits=4, kind="full range")
    scale = solved.refined(rounds=3)[0].scale
    assert torch.equal(scale, scale.half().double()) and torch.equal(scale, scale.bfloat16().double())
    assert ((scale > 0) == (solved.qparams.scale > 0)).all()
    assert (scale != solved.qparams.scale).any()


def test_outputs_of_zeros_and_dead_inputs_stay_finite() -> None:
    solved = Solved(bits=4, kind="positive")
    solved.weight[:, 0] = 0
    solved.hessian[5], solved.hessian[:, 5] = 0, 0
    lower, diagonal, solved.damp = factor(solved.hessian, solved.order, DAMP)
    solved.codes, _ = solve(solved.weight, lower, diagonal, solved.order, solved.qparams, solved.groups)
    qparams, codes, loss = solved.refined(rounds=2)
    assert qparams.scale.isfinite().all() and loss.isfinite().all()
    assert (codes[:, 0] == 8).all() and loss[0] == 0
