"""One block run over all samples, watched or left wherever a layer's inputs are wanted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

Call = Callable[[], torch.Tensor]
# Called with the name of a layer and its inputs, before the layer runs.
See = Callable[[str, torch.Tensor], None]


def run_once(block: nn.Module, stops: Sequence[str], call: Call, see: See) -> torch.Tensor:
    """Run a block, showing `see` the inputs of each layer of `stops` before it runs; it may change the layer's weight.

    So a layer sees what the layers before it make once they are quantized (`true_sequential`), in one forward. For
    samples that all go through the block at one time.
    """
    with watched(block, stops, see), torch.no_grad():
        return call()


def collect(block: nn.Module, stops: Sequence[str], calls: Sequence[Call], see: See) -> None:
    """Show `see` the inputs of all layers of `stops`, running each sample once, up to the last of them.

    With a single stop, the forward ends there: asked for one layer after the other, that takes about two and a half
    forwards of a block, and nothing is held in between.
    """
    for call in calls:

        def note(name: str, x: torch.Tensor) -> None:
            see(name, x)
            if name == stops[-1]:
                raise _Reached

        with watched(block, stops, note), torch.no_grad(), suppress(_Reached):
            call()


class _Reached(Exception):
    """Thrown from a hook to leave a forward."""


@contextmanager
def watched(block: nn.Module, names: Sequence[str], see: See) -> Iterator[None]:
    """While this is entered, `see` is called before each of the named layers of a block runs."""

    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(name, args[0] if args else next(iter(kwargs.values())))

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
