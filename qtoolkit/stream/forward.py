"""Run one block on samples to observe the inputs of its layers, stopping early if nothing more is needed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from qtoolkit.tensor.padded_rows import PaddedProducts
from qtoolkit.tensor.unseen_calls import unseen_by

# Runs a block on a batch of samples and returns its output.
Call = Callable[[], torch.Tensor]
# Called with the name of a layer and its inputs, before the layer runs.
OnInputs = Callable[[str, torch.Tensor], None]


def run_once(block: nn.Module, stops: Sequence[str], call: Call, on_inputs: OnInputs) -> torch.Tensor:
    """Run a block; `on_inputs` gets the inputs of each layer of `stops` before it runs, and may change its weight.

    In this way a layer gets the outputs of the already quantized layers before it (`true_sequential`), in one forward.
    All samples must go through the block in one batch.
    """
    with observed(block, stops, on_inputs), torch.no_grad():
        return call()


def collect(block: nn.Module, stops: Sequence[str], calls: Sequence[Call], on_inputs: OnInputs) -> None:
    """Pass the inputs of all layers of `stops` to `on_inputs`, running each batch once, up to the last of them.

    Each forward ends at the last stop: called for one layer after the other, this takes about two and a half forwards
    of a block in total, and stores nothing in between.
    """

    def note(name: str, x: torch.Tensor) -> None:
        on_inputs(name, x)
        if name == stops[-1]:
            raise _LastStop

    for call in calls:
        with observed(block, stops, note), torch.no_grad(), suppress(_LastStop):
            call()


class _LastStop(Exception):
    """Leave a forward from within a hook."""


@contextmanager
def observed(block: nn.Module, names: Sequence[str], on_inputs: OnInputs) -> Iterator[None]:
    """Call `on_inputs` before each of the named layers of a block runs, for the time of a `with` block."""

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            with unseen_by(PaddedProducts):
                on_inputs(name, args[0] if args else next(iter(kwargs.values())))

        return hook

    handles = [
        block.get_submodule(name).register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name in dict.fromkeys(names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
