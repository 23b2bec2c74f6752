"""Layers that share their inputs are refined together, whatever their bits, groups and format; the option `refine`."""

from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.stream.block_method import Result
from qtoolkit.stream.groups import GroupInputs
from tests.methods.gptq.jobs import gptq

IN = 96
NAMES = ("first", "second")


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(out, IN, generator=generator) for name, out in zip(NAMES, (32, 64), strict=True)}


def inputs() -> torch.Tensor:
    """Inputs [tokens, in] whose channels are correlated; one is always zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, IN, generator=generator) @ torch.randn(IN, IN, generator=generator)
    x[:, 7] = 0
    return x


def solved(**options: Any) -> tuple[GPTQBlocks, Any]:
    method = GPTQBlocks(gptq(**options), "cpu", torch.bfloat16)
    group = method.start(NAMES, IN)
    group.add(GroupInputs(inputs()))
    return method, group.finish(weights())


def error_of(method: GPTQBlocks, name: str, result: Result) -> float:
    """The error of a layer's outputs as a share of their square, damping included."""
    x, weight = inputs().double(), weights()[name].double()
    hessian = x.T @ x
    damped = hessian + result.facts["damp_percent"] * hessian.diagonal().mean() * torch.eye(IN)
    damped[7, 7] = 1
    error = weight - method.dequantize("layer", result.tensors).double()
    return float((error @ damped * error).sum() / (weight @ hessian * weight).sum())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"bits": 2}, id="2 bits"),
        pytest.param({"rules": {"second": {"bits": 8}}}, id="two stacks"),
        pytest.param({"desc_act": True}, id="groups in order of activation"),
        pytest.param({"order": "natural", "sym": False}, id="columns as they stand, asymmetric"),
        pytest.param({"group_size": -1, "full_range": False}, id="one group"),
        pytest.param({"format": "compressed-tensors", "bits": 3}, id="compressed-tensors"),
    ],
)
def test_the_error_of_each_layer_is_less_and_is_what_is_told(options: dict[str, Any]) -> None:
    _, before = solved(refine=0, **options)
    method, after = solved(refine=2, **options)
    for name in NAMES:
        told = after[name].facts["error"]
        assert told < 0.99 * before[name].facts["error"]
        assert told == pytest.approx(error_of(method, name, after[name]), rel=0.01)


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({}, 3),
        ({"bits": 8}, 0),
        ({"bits": 8, "rules": {"*.q_proj": {"bits": 4}}}, 3),
        ({"bits": 8, "target_bits": 4.5}, 3),
        ({"refine": 0}, 0),
        ({"bits": 8, "refine": 1}, 1),
    ],
)
def test_rounds_are_those_that_the_bits_of_layers_ask_for(options: dict[str, Any], rounds: int) -> None:
    assert gptq(**options).rounds == rounds


@pytest.mark.parametrize(
    ("options", "rounds"), [({}, 3), ({"bits": 8}, 0), ({"engine": "optimum", "token_weights": False}, 0)]
)
def test_the_plan_says_how_many_rounds_are_meant(options: dict[str, Any], rounds: int, tiny_llama: Path) -> None:
    assert qt.plan(tiny_llama, gptq(**options), device="cpu").settings["refine"] == rounds


def test_fewer_rounds_than_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="refine must be at least 0, got -1"):
        qt.GPTQ(refine=-1)
