"""Inputs of layers are those that the layers before them make at that time, however a block is run."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from qtoolkit.stream.forward import PausedForwards, RepeatedForwards, collect, trace


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
    return Block().requires_grad_(False)


def calls_of(block: Block, count: int = 3) -> list[Callable[[], torch.Tensor]]:
    samples = torch.randn(count, 5, 8)
    return [lambda sample=sample: block(sample) for sample in samples]


STOPS = ("gate", "down")
WAYS = pytest.mark.parametrize("way", [PausedForwards, RepeatedForwards], ids=["paused", "repeated"])


def test_layers_that_share_their_inputs_are_found(block: Block) -> None:
    found = trace(block, ["gate", "up", "down"], calls_of(block)[0])
    assert found.groups == (("gate", "up"), ("down",))
    assert found.held_bytes == 3 * 5 * 8 * 4


@WAYS
def test_a_layer_sees_the_layers_before_it_as_they_are_by_then(block: Block, way: type) -> None:
    calls = calls_of(block)
    forwards = way(block, STOPS, calls)
    first = [x.clone() for x in forwards.inputs("gate")]
    block.gate.weight.mul_(2)
    second = [x.clone() for x in forwards.inputs("down")]
    block.down.weight.mul_(3)
    outputs = list(forwards.outputs())
    forwards.close()
    for x, product, output in zip(first, second, outputs, strict=True):
        assert torch.equal(product, block.gate(x) * block.up(x))
        assert torch.equal(output, x + block.down(product))
    assert len(outputs) == 3


@WAYS
def test_an_error_in_a_block_is_raised_and_no_thread_stays(block: Block, way: type) -> None:
    def broken() -> torch.Tensor:
        block(torch.randn(5, 8))
        raise ValueError("no such thing")

    forwards = way(block, STOPS, [broken, broken])
    with pytest.raises(ValueError, match="no such thing"):
        list(forwards.outputs())
    forwards.close()
    assert threading.active_count() == 1
    assert not block.gate._forward_pre_hooks


def test_paused_samples_are_ended_when_nobody_wants_them(block: Block) -> None:
    forwards = PausedForwards(block, STOPS, calls_of(block))
    next(iter(forwards.inputs("gate")))
    list(forwards.inputs("down"))
    assert threading.active_count() == 4
    forwards.close()
    assert threading.active_count() == 1


@WAYS
def test_a_sample_that_does_not_reach_a_layer_has_no_inputs_for_it(block: Block, way: type) -> None:
    sample = torch.randn(5, 8)
    calls = [lambda: block.down(sample), lambda: block(sample)]
    forwards = way(block, STOPS, calls)
    assert len(list(forwards.inputs("gate"))) == 1
    assert len(list(forwards.inputs("down"))) == 2
    assert len(list(forwards.outputs())) == 2
    forwards.close()


def test_all_inputs_can_be_seen_in_one_run(block: Block) -> None:
    seen: list[str] = []
    calls = calls_of(block)
    collect(block, STOPS, calls, lambda name, x: seen.append(name))
    assert seen == ["gate", "down"] * 3


@WAYS
def test_gradients_are_never_kept(block: Block, way: type) -> None:
    block.requires_grad_(True)
    forwards = way(block, STOPS, calls_of(block))
    assert not any(x.requires_grad for x in forwards.inputs("down"))
    assert not any(output.requires_grad for output in forwards.outputs())
    forwards.close()
