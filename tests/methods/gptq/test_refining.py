"""Refining scales and codes, against a literal implementation in float64 that computes every error anew."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from qtoolkit.methods.gptq import refining
from qtoolkit.methods.gptq.refining import refine
from qtoolkit.methods.gptq.solver import column_order, factor, permuted, solve
from qtoolkit.tensor.qparams import QParams, search_qparams
from tests.methods.gptq.test_solver import IN, problem

pytestmark = pytest.mark.once

DAMP = 0.01
KINDS = {"positive": (True, False), "full range": (True, True), "asymmetric": (False, False)}
# The literal implementation takes its time.
LITERAL = 5


class Solved:
    """A weight with its Hessian, solved and not refined yet."""

    def __init__(
        self,
        *,
        bits: int,
        kind: str,
        size: int = 32,
        order: str = "activation",
        seed: int = 0,
        desc_act: bool = False,
        dead: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        weight, hessian = problem(seed=seed)
        if dead:
            hessian[5], hessian[:, 5] = 0, 0
        self.weight, self.hessian = weight.T.contiguous().to(dtype), hessian.to(dtype)
        self.order = column_order(self.hessian.diagonal(), order)
        sym, full_range = KINDS[kind]
        self.groups = torch.arange(IN) // size
        if desc_act:
            self.groups[self.order] = self.groups.clone()
        members = self.groups.argsort(stable=True)
        self.qparams = search_qparams(
            self.weight[members],
            self.hessian.diagonal()[members],
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
            self.weight,
            self.hessian,
            self.damp,
            self.order,
            self.qparams,
            self.groups,
            self.codes,
            self.loss,
            rounds=rounds,
        )

    def error_of(self, qparams: QParams, codes: torch.Tensor) -> torch.Tensor:
        """The squared error of each output, computed in float64."""
        levels = codes.double() - qparams.zero_point.double()[self.groups]
        error = self.weight.double() - levels * qparams.scale.double()[self.groups]
        matrix = permuted(self.hessian.double(), torch.arange(IN), self.damp)
        return (error * (matrix @ error)).sum(0)


def eight_bits(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 256) / 256, exponent)


def literally(solved: Solved, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and codes of the first outputs after rounds of both steps, each step the one of least error."""
    matrix = permuted(solved.hessian, torch.arange(IN), solved.damp)
    scales, codes = solved.qparams.scale[:, :LITERAL].clone(), solved.codes[:, :LITERAL].double()
    zeros, groups = solved.qparams.zero_point, solved.groups
    visited = list(dict.fromkeys(groups[solved.order].tolist()))
    possible = torch.arange(2**solved.qparams.bits)
    for output in range(LITERAL):
        target, zero = solved.weight[:, output], zeros[groups, output]
        scale, code = scales[:, output], codes[:, output]
        for group in visited * rounds:
            error = target - scale[groups] * (code - zero)
            level = torch.where(groups == group, code - zero, 0)
            if level.any():
                fitted = eight_bits(float(scale[group] + (level @ matrix @ error) / (level @ matrix @ level)))
                changed = error - (fitted - scale[group]) * level
                if fitted * scale[group] > 0 and changed @ matrix @ changed < error @ matrix @ error:
                    scale[group] = fitted
            for column in (column for column in solved.order.tolist() if groups[column] == group):
                # Every code that the column could have, by its error.
                trials = (target - scale[groups] * (code - zero)).repeat(len(possible), 1)
                trials[:, column] = target[column] - scale[group] * (possible - zero[column])
                code[column] = float((trials @ matrix * trials).sum(1).argmin())
    return scales, codes


def is_as_literally(solved: Solved, rounds: int) -> None:
    scales, codes = literally(solved, rounds)
    qparams, refined, _ = solved.refined(rounds)
    assert torch.equal(qparams.scale[:, :LITERAL], scales)
    assert torch.equal(refined[:, :LITERAL], codes.to(torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_it_does_what_the_formulas_say(bits: int, kind: str) -> None:
    is_as_literally(Solved(bits=bits, kind=kind, seed=bits), rounds=2)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"order": "natural"}, id="columns as they stand"),
        pytest.param({"desc_act": True}, id="groups in order of activation"),
        pytest.param({"size": IN}, id="one group"),
        pytest.param({"dead": True}, id="an input that is always zero"),
    ],
)
def test_so_it_does_with_other_groups_and_orders(options: dict) -> None:
    is_as_literally(Solved(bits=3, kind="full range", seed=20, **options), rounds=2)


def test_so_it_does_with_groups_that_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refining, "BLOCK", 20)
    is_as_literally(Solved(bits=4, kind="asymmetric", size=IN // 2, seed=21), rounds=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [32, IN], ids=["groups of 32", "one group"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_no_round_makes_the_error_larger(bits: int, kind: str, size: int, dtype: torch.dtype) -> None:
    solved = Solved(bits=bits, kind=kind, size=size, seed=7, dtype=dtype)
    results = [(solved.qparams, solved.codes), *(solved.refined(rounds=rounds)[:2] for rounds in (1, 2, 4))]
    errors = [solved.error_of(*result) for result in results]
    close = 1e-9 if dtype == torch.float64 else 1e-5
    for before, after in itertools.pairwise(errors):
        assert (after <= before * (1 + close)).all()
    assert errors[1].sum() < 0.999 * errors[0].sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_error_is_that_of_what_it_returns(dtype: torch.dtype) -> None:
    solved = Solved(bits=3, kind="full range", dtype=dtype)
    qparams, codes, loss = solved.refined(rounds=2)
    torch.testing.assert_close(loss.double(), solved.error_of(qparams, codes), rtol=1e-4, atol=0)


def test_an_output_that_got_no_better_stays_as_it_was() -> None:
    solved = Solved(bits=3, kind="positive")
    expected = solved.refined(rounds=2)
    solved.loss = solved.loss.clone()
    solved.loss[3] = 0
    qparams, codes, loss = solved.refined(rounds=2)
    assert torch.equal(codes[:, 3], solved.codes[:, 3]) and torch.equal(qparams.scale[:, 3], solved.qparams.scale[:, 3])
    assert loss[3] == 0
    others = torch.arange(len(loss)) != 3
    assert torch.equal(codes[:, others], expected[1][:, others]) and torch.equal(loss[others], expected[2][others])


def refined_by_hand(weights: list[float], levels: list[int], scale: float) -> tuple[float, list[int]]:
    """The scale and the levels of one group of 3 bits after a round, with a Hessian of ones on its diagonal."""
    weight = torch.tensor(weights, dtype=torch.float64)[:, None]
    qparams = QParams(torch.full((1, 1), scale).double(), torch.full((1, 1), 4.0).double(), bits=3)
    codes = torch.tensor(levels)[:, None].add(4).to(torch.uint8)
    count = len(weights)
    groups, loss = torch.zeros(count, dtype=torch.int64), torch.full((1,), math.inf).double()
    refined, codes, _ = refine(
        weight, torch.eye(count).double(), 0.0, torch.arange(count), qparams, groups, codes, loss, rounds=1
    )
    return refined.scale.item(), (codes[:, 0].int() - 4).tolist()


def test_codes_as_near_as_others_stay() -> None:
    assert refined_by_hand([0.5, 1.5], levels=[1, 1], scale=1.0) == (1.0, [1, 1])


@pytest.mark.parametrize(
    ("weights", "levels", "scale", "expected"),
    [
        pytest.param([-0.3], [1], 0.25, (0.25, [-1]), id="of the other sign"),
        pytest.param([0.3], [1], -0.25, (-0.25, [-1]), id="of the other sign, negative"),
        pytest.param([0.0], [1], 0.25, (0.25, [0]), id="zero"),
        pytest.param([0.3], [0], 0.25, (0.25, [1]), id="of levels that are all zero"),
        pytest.param([1.0, 1.001], [1, 1], 1.0, (1.0, [1, 1]), id="that is rounded to what it was"),
    ],
)
def test_scales_that_cannot_be_fitted_stay(
    weights: list[float], levels: list[int], scale: float, expected: tuple[float, list[int]]
) -> None:
    assert refined_by_hand(weights, levels, scale) == expected


@pytest.mark.parametrize(("weight", "scale"), [(1e-9, 2.0**-14), (1e9, 65280.0)])
def test_scales_end_where_float16_does(weight: float, scale: float) -> None:
    level = round(max(-4.0, min(3.0, weight / scale)))
    assert refined_by_hand([weight], [level], scale) == (scale, [level])


@pytest.mark.parametrize("kind", KINDS)
def test_scales_fit_both_types_and_keep_their_signs(kind: str) -> None:
    solved = Solved(bits=4, kind=kind)
    qparams = solved.refined(rounds=3)[0]
    changed = qparams.scale != solved.qparams.scale
    scale = qparams.scale[changed]
    assert changed.double().mean() > 0.5
    assert torch.equal(scale, scale.half().double()) and torch.equal(scale, scale.bfloat16().double())
    assert ((qparams.scale > 0) == (solved.qparams.scale > 0)).all()
    assert torch.equal(qparams.zero_point, solved.qparams.zero_point)


def test_what_it_is_given_stays_as_it_was() -> None:
    solved = Solved(bits=4, kind="full range")
    given = (solved.weight, solved.hessian, solved.qparams.scale, solved.codes, solved.loss)
    kept = [tensor.clone() for tensor in given]
    solved.refined(rounds=1)
    assert all(map(torch.equal, given, kept))


def test_an_output_of_zeros_stays_zero() -> None:
    solved = Solved(bits=4, kind="positive")
    solved.weight[:, 0], solved.codes[:, 0], solved.loss[0] = 0, 8, 0
    qparams, codes, loss = solved.refined(rounds=2)
    assert (codes[:, 0] == 8).all() and loss[0] == 0 and qparams.scale.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_fitted_scale_lets_a_code_stand_for_more_than_the_largest_number(kind: str) -> None:
    solved = Solved(bits=3, kind=kind)
    levels = torch.maximum(solved.qparams.zero_point, 2**3 - 1 - solved.qparams.zero_point)
    free = solved.refined(2)[0].scale.abs() * levels
    most = (solved.qparams.scale.abs() * levels).mean().item()
    assert free.max() > most
    solved.qparams = replace(solved.qparams, scale=solved.qparams.scale.clamp(-most / 8, most / 8), largest=most)
    held = solved.refined(2)[0].scale.abs() * levels
    assert held.max() <= most
