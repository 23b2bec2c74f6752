"""Calibration samples on their way through a model: hidden states, and what else each block is called with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from qtoolkit.stream.blocks import StreamedModel

# Activations of the widest kind that a block holds at one time, as a gated MLP does: gate, up and their product.
_WIDEST_AT_ONCE = 4
# What these may take for all samples together, and where they would take more, for the samples that run at one time.
_WHOLE_BYTES = 2**30
_BATCH_BYTES = 2**27


@dataclass
class Samples:
    """Hidden states of all samples in batches, and what else each block is called with.

    Attributes:
        gives_tuple: whether the block that ran last gave a tuple, whose first entry are the hidden states.
    """

    hidden: list[torch.Tensor]
    # The first sample as the first block is given it.
    one: torch.Tensor
    # Block -> batch size -> arguments beside the hidden states.
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]]
    gives_tuple: bool = False

    def calls(self, index: int, block: nn.Module, device: str) -> list[Callable[[], torch.Tensor]]:
        return [partial(self.call, index, block, device, hidden) for hidden in self.hidden]

    def call_one(self, index: int, block: nn.Module, device: str) -> torch.Tensor:
        """Run a block on one sample, to see how it runs: on that of the first block, whichever it is."""
        return self.call(index, block, device, self.one)

    def call(self, index: int, block: nn.Module, device: str, hidden: torch.Tensor) -> torch.Tensor:
        """What a block makes of a batch of hidden states [samples, tokens, hidden]."""
        args, kwargs = self.arguments[index][len(hidden)]
        output = block(hidden.to(device), *args, **kwargs)
        self.gives_tuple = isinstance(output, tuple)
        tensor: torch.Tensor = output[0] if self.gives_tuple else output
        return tensor


def activation_bytes(itemsize: int, widest: int, tokens: int) -> int:
    """What the widest activations of a block take at the moment when there are most of them."""
    return _WIDEST_AT_ONCE * widest * itemsize * tokens


def samples_at_once(itemsize: int, widest: int, num_samples: int, seq_len: int) -> int:
    """How many samples run through a block at one time.

    All of them where that takes little memory: then one forward is enough (`run_once`). Otherwise few, since a block is
    run for each layer anew, and more at one time would not be faster.

    Args:
        itemsize: bytes of an activation.
        widest: most inputs or outputs that a layer has.
        num_samples: all there are.
        seq_len: tokens of each.
    """
    taken = activation_bytes(itemsize, widest, seq_len)
    if num_samples * taken <= _WHOLE_BYTES:
        return num_samples
    return max(1, _BATCH_BYTES // taken)


def first_inputs(streamed: StreamedModel, tokens: torch.Tensor, samples_at_once: int) -> Samples:
    """What the first block is given for each sample, and what every block is called with."""
    batches = tokens.split(samples_at_once)
    samples = Samples([], torch.empty(0), [{} for _ in streamed.blocks])
    with streamed.outside() as model, torch.no_grad():
        for batch in batches:
            known = len(batch) in samples.arguments[0]
            hidden = _watch(model.base_model, streamed, batch, samples, all_blocks=not known)
            samples.hidden.append(hidden.to("cpu"))
        samples.one = _watch(model.base_model, streamed, tokens[:1], samples, all_blocks=1 not in samples.arguments[0])
    return samples


def _watch(
    base_model: nn.Module, streamed: StreamedModel, batch: torch.Tensor, samples: Samples, *, all_blocks: bool
) -> torch.Tensor:
    """Run a model without its blocks, and note what each would have been called with; give what the first was given.

    Some architectures expect a tuple of a block and some a tensor, which shows in what the second block is given.
    """
    first: list[torch.Tensor] = []
    for as_tuple in (False, True):
        first.clear()
        stand_in = partial(_stand_in, first, samples.arguments, as_tuple, all_blocks)
        for index, block in enumerate(streamed.blocks):
            block.forward = partial(stand_in, index)
        try:
            with suppress(_LeftEarly):
                base_model(input_ids=batch.to(streamed.device), use_cache=False)
        finally:
            for block in streamed.blocks:
                del block.forward
        if not all_blocks or len(batch) in samples.arguments[-1]:
            break
    return first[0]


def _stand_in(
    first: list[torch.Tensor],
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]],
    as_tuple: bool,
    all_blocks: bool,
    index: int,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Take the place of block `index`'s forward."""
    hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
    if index == 0:
        first.append(hidden)
    elif hidden is not first[0]:
        raise _LeftEarly
    arguments[index][len(first[0])] = rest, kwargs
    # The norm after the last block would take twice the hidden states in float32.
    if not all_blocks or index == len(arguments) - 1:
        raise _LeftEarly
    return (hidden,) if as_tuple else hidden


class _LeftEarly(Exception):
    """Thrown to leave a model once enough was seen, or when its blocks should give something else."""


@contextmanager
def blocks_giving(streamed: StreamedModel, hidden: Callable[[], torch.Tensor], *, as_tuple: bool) -> Iterator[None]:
    """While this is entered, each block of a model gives what `hidden` gives, whatever it is called with.

    Args:
        streamed: the model.
        hidden: gives hidden states.
        as_tuple: whether the architecture's blocks give a tuple.
    """

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return (hidden(),) if as_tuple else hidden()

    for block in streamed.blocks:
        block.forward = stand_in
    try:
        yield
    finally:
        for block in streamed.blocks:
            del block.forward
