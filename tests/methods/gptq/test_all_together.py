"""Everything that changes a layer's codes, taken together, against a literal implementation in float64."""

import math
from dataclasses import dataclass

import pytest
import torch

from qtoolkit.methods.gptq.layer_groups import SEARCH_STEPS, SMALLEST, GPTQBlocks
from qtoolkit.stream.groups import GroupInputs
from tests.methods.gptq.jobs import gptq

IN, OUT, DEAD, DAMP, ALPHA = 64, 32, 5, 0.02, 0.5
# The literal implementation takes its time.
LITERAL = 5


@dataclass(frozen=True)
class Case:
    """A recipe, and what its calibration text is like; `aim` is what the layer is corrected by."""

    bits: int
    aim: str
    tokens: int = 700
    sym: bool = True
    full_range: bool = True
    order: str = "activation"
    desc_act: bool = False
    size: int = 32
    rounds: int = 2
    weighed: bool = True
    dead: bool = False
    format: str = "gptq"


CASES = {
    "inputs": Case(4, "inputs"),
    "residual stream, an input that is always zero": Case(3, "stream", dead=True),
    "one group, natural order, unweighed": Case(2, "inputs", size=-1, order="natural", weighed=False),
    "asymmetric": Case(3, "stream", sym=False),
    "asymmetric, packed": Case(3, "inputs", sym=False, rounds=0, format="compressed-tensors"),
    "groups in order of activation": Case(4, "inputs", desc_act=True, dead=True),
    "6 bits, few tokens, positive scales": Case(
        6, "stream", tokens=200, full_range=False, rounds=0, format="compressed-tensors"
    ),
    "8 bits, packed": Case(8, "inputs", rounds=1, format="compressed-tensors"),
    "fewer tokens than inputs": Case(4, "inputs", tokens=30, dead=True),
    "one token": Case(4, "inputs", tokens=1, weighed=False),
}


def rounded(scale: float, *, signed: bool) -> float:
    """A scale as files hold it: 8 significant bits if it may have a sign, else float16."""
    if not signed:
        return float(torch.tensor(scale).clamp(2.0**-14, 65504).half())
    mantissa, exponent = math.frexp(math.copysign(max(min(abs(scale), 65280.0), 2.0**-14), scale))
    return math.ldexp(round(mantissa * 256) / 256, exponent)


def searched(case: Case, weight: torch.Tensor, importance: torch.Tensor) -> tuple[float, float]:
    """The scale and the zero point of one group by F1: the least weighted error of all candidates."""
    bits, middle, highest = case.bits, 2 ** (case.bits - 1), 2**case.bits - 1
    importance = importance if importance.sum() > 0 else torch.ones_like(importance)
    best = (math.inf, 1.0, 0.0)
    for step in range(SEARCH_STEPS[bits]):
        share = 1 - (1 - SMALLEST[bits]) * step / (SEARCH_STEPS[bits] - 1)
        low = min(weight.min().item(), 0)
        if case.sym:
            full = weight.abs().max().item() / (middle - 0.5) * share
            one = rounded(full, signed=case.full_range)
            found = [(one, middle), (-one, middle)][: 1 + case.full_range]
        else:
            one = rounded((max(weight.max().item(), 0) - low) / highest * share, signed=False)
            found = [(one, min(max(round(-low * share / one), 1), highest))]
        for scale, zero in found:
            codes = (weight / scale + zero).round().clamp(0, highest)
            error = float((importance * (weight - (codes - zero) * scale) ** 2).sum())
            best = min(best, (error, scale, zero), key=lambda entry: entry[0])
    return best[1:]


def literal(
    case: Case, weight: torch.Tensor, xq: torch.Tensor, aim: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """The first rows of the quantized weight, by the formulas: F6, F2, F1, algorithm 1 of GPTQ, F5 and F4 in turns."""
    size = IN if case.size == -1 else case.size
    hessian = xq.T @ torch.diag(counts) @ xq
    strength = hessian.diagonal().clone()
    by_strength = strength.float().argsort(descending=True, stable=True)
    order = by_strength if case.order == "activation" else torch.arange(IN)
    groups = torch.arange(IN) // size
    if case.desc_act:
        groups[order] = groups.clone()
    damped = hessian + DAMP * strength.mean() * torch.eye(IN)
    damped[strength == 0, strength == 0] = 1
    share = min(1.0, max(0.0, (len(xq) / IN - 1) / 7))
    products = xq.T @ torch.diag(counts) @ aim
    target = (weight + ALPHA * share * torch.linalg.solve(damped, products).T)[:LITERAL]
    scale, zero = (torch.zeros(LITERAL, IN // size, dtype=torch.float64) for _ in range(2))
    for row in range(LITERAL):
        for group in range(IN // size):
            own = groups == group
            scale[row, group], zero[row, group] = searched(case, target[row, own], strength[own])
    upper = torch.linalg.cholesky(torch.linalg.inv(damped[order][:, order]), upper=True)
    left, codes, highest = target[:, order].clone(), torch.zeros_like(target), 2**case.bits - 1
    for column, original in enumerate(order.tolist()):
        s, z = scale[:, groups[original]], zero[:, groups[original]]
        codes[:, original] = (left[:, column] / s + z).round().clamp(0, highest)
        error = (left[:, column] - (codes[:, original] - z) * s) / upper[column, column]
        left[:, column:] -= error[:, None] * upper[column, column:]
    for row in range(LITERAL):
        refined = target[row], damped, scale[row], zero[row], codes[row], groups, order, highest
        for group in list(dict.fromkeys(groups[order].tolist())) * case.rounds:
            refine_literally(group, *refined)
    return (codes - zero[:, groups]) * scale[:, groups]


def refine_literally(
    group: int,
    target: torch.Tensor,
    damped: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor,
    code: torch.Tensor,
    groups: torch.Tensor,
    order: torch.Tensor,
    highest: int,
) -> None:
    """F5, then F4, of one group of one row, in place."""
    error = target - (code - zero[groups]) * scale[groups]
    level = torch.where(groups == group, code - zero[groups], 0)
    if level.any():
        fitted = float(scale[group] + (level @ damped @ error) / (level @ damped @ level))
        near = rounded(fitted, signed=True)
        changed = error - (near - scale[group]) * level
        if fitted * scale[group] > 0 and changed @ damped @ changed < error @ damped @ error:
            scale[group] = near
    for column in (column for column in order.tolist() if groups[column] == group):
        error = target - (code - zero[groups]) * scale[groups]
        value = (code[column] - zero[group]) * scale[group] + (damped[column] @ error) / damped[column, column]
        code[column] = ((value / scale[group]).round() + zero[group]).clamp(0, highest)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_what_the_formulas_give(case: Case) -> None:
    generator = torch.Generator().manual_seed(case.bits)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    xq = draw(case.tokens, IN) @ draw(IN, IN) * torch.rand(IN, generator=generator)
    x = xq + 0.1 * draw(case.tokens, IN) + 0.05 * xq.roll(1, 1)
    if case.dead:
        xq[:, DEAD] = x[:, DEAD] = 0
    weight = 0.05 * draw(OUT, IN)
    counts = torch.ones(case.tokens)
    if case.weighed:
        counts = torch.rand(case.tokens, generator=generator) ** 3
        counts[::4] = 0
        counts /= counts.mean()
    lacking = x @ weight.T + 0.1 * draw(case.tokens, OUT) - xq @ weight.T
    config = gptq(
        bits=case.bits,
        sym=case.sym,
        full_range=case.full_range,
        group_size=case.size,
        order=case.order,
        desc_act=case.desc_act,
        refine=case.rounds,
        qep_alpha=ALPHA,
        damp_percent=DAMP,
        token_weights=case.weighed,
        format=case.format,
    )
    method = GPTQBlocks(config, "cpu", torch.float16)
    group = method.start(["layer"], IN)
    for part in torch.arange(case.tokens).split(257):
        aims = {"exact": x[part]} if case.aim == "inputs" else {"lacking": lacking[part]}
        group.add(GroupInputs(xq[part], weights=counts[part] if case.weighed else None, **aims))
    result = group.finish({"layer": weight})["layer"]
    found = method.dequantize("layer", result.tensors)[:LITERAL]
    wide = weight.double()
    aim = (x.double() - xq.double()) @ wide.T if case.aim == "inputs" else lacking.double()
    wanted = literal(case, wide, xq.double(), aim, counts.double())
    assert result.facts["damp_percent"] == DAMP
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-7)
