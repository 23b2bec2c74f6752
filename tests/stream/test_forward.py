"""Inputs of layers are seen as the layers before them make them at that time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qtoolkit.stream.forward import collect, run_once
from qtoolkit.stream.groups import trace
from qtoolkit.tensor.padded_rows import PaddedProducts

pytestmark = pytest.mark.once


class Block(nn.Module):
    """Two layers on the same inputs, one on their product, and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.gate(x) * self.up(x))


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


def calls_of(block: Block, count: int = 3) -> list[Callable[[], torch.Tensor]]:
    samples = torch.randn(count, 5, 8)
    return [lambda sample=sample: block(sample) for sample in samples]


def test_layers_that_share_their_inputs_are_found(block: Block) -> None:
    assert trace(block, ["gate", "up", "down"], calls_of(block)[0]) == (("gate", "up"), ("down",))


def test_equal_inputs_that_are_not_the_same_are_not_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x.clone()) + self.second(x.clone())

    block = Twice()
    assert trace(block, ["first", "second"], lambda: block(torch.ones(2, 4))) == (("first",), ("second",))


def test_in_one_run_a_layer_sees_the_layers_before_it_as_they_are_by_then(block: Block) -> None:
    x, seen = torch.randn(5, 8), {}

    def see(name: str, inputs: torch.Tensor) -> None:
        seen[name] = inputs.clone()
        layer = block.get_submodule(name)
        layer.weight = nn.Parameter(2 * layer.weight.detach())

    output = run_once(block, ["gate", "down"], lambda: block(x), see)
    assert torch.equal(seen["gate"], x)
    assert torch.equal(seen["down"], block.gate(x) * block.up(x))
    assert torch.equal(output, block(x))


def test_a_mode_for_products_of_the_block_does_not_see_what_is_done_with_inputs(block: Block) -> None:
    seen: list[object] = []

    class Watching(PaddedProducts):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    with Watching():
        run_once(block, ["gate"], lambda: block(torch.randn(5, 8)), lambda name, x: x.erf())
    assert torch.nn.functional.linear in seen
    assert torch.Tensor.erf not in seen


def test_all_inputs_can_be_seen_in_one_run_of_each_sample(block: Block) -> None:
    seen: list[str] = []
    collect(block, ["gate", "down"], calls_of(block), lambda name, x: seen.append(name))
    assert seen == ["gate", "down"] * 3


def test_a_run_ends_at_the_last_layer_that_is_wanted(block: Block) -> None:
    ran: list[str] = []
    block.down.register_forward_hook(lambda *_: ran.append("down"))
    collect(block, ["gate"], calls_of(block), lambda name, x: None)
    assert not ran


def test_a_sample_that_does_not_reach_a_layer_shows_nothing(block: Block) -> None:
    seen: list[str] = []
    sample = torch.randn(5, 8)
    collect(block, ["gate"], [lambda: block.down(sample), lambda: block(sample)], lambda name, x: seen.append(name))
    assert seen == ["gate"]


@pytest.mark.parametrize("way", ["once", "collect"])
def test_an_error_is_raised_and_no_hook_stays(block: Block, way: str) -> None:
    def broken() -> torch.Tensor:
        raise ValueError("no such thing")

    run = {
        "once": lambda: run_once(block, ["gate"], broken, lambda name, x: None),
        "collect": lambda: collect(block, ["gate"], [broken], lambda name, x: None),
    }
    with pytest.raises(ValueError, match="no such thing"):
        run[way]()
    assert not block.gate._forward_pre_hooks


def test_gradients_are_never_kept(block: Block) -> None:
    seen: list[torch.Tensor] = []
    output = run_once(block, ["down"], calls_of(block)[0], lambda name, x: seen.append(x))
    assert not seen[0].requires_grad and not output.requires_grad
