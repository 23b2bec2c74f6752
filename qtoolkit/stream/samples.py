"""Pass calibration samples through a model block by block: hidden states, and the other arguments of each block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.models.block_passing import MOST_OUTPUTS, outputs_of, replaced_forwards
from qtoolkit.stream.arguments import Arguments, BlockArguments, Carried, Span
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.tensor.padded_rows import PaddedProducts

# Widest activations that a block holds at one time, as a gated MLP does: gate, up and their product.
_WIDEST_AT_ONCE = 4
# Limit of their bytes for all samples in one batch; if they take more, the limit for the samples of one batch.
_WHOLE_BYTES = 2**30
_BATCH_BYTES = 2**27
# The same for samples that run through a block with nothing to wait for: each tensor stays below the size (32 MiB) from
# which the C library asks the system for its memory anew, which takes a third of a forward.
_PART_BYTES = 2**26


class _CarriedValues:
    """Keep what each batch was given by the block before, beside the hidden states.

    A batch runs through a block several times, each time with the same; only the last two blocks are known.
    """

    def __init__(self) -> None:
        self._block = -1
        self._before: dict[Span, Sequence[Any]] = {}
        self._given: dict[Span, Sequence[Any]] = {}

    def put_into(self, arguments: Arguments, index: int, span: Span) -> Arguments:
        """Return a block's arguments for a batch with what the block before gave; None for what it did not give."""
        if index != self._block:
            self._block, self._before, self._given = index, self._given, {}

        def value_of(value: Any) -> Any:
            if not isinstance(value, Carried):
                return value
            outputs = self._before.get(span, ())
            return outputs[value.position] if value.position < len(outputs) else None

        kwargs = {name: value_of(value) for name, value in arguments.kwargs.items()}
        return Arguments(tuple(map(value_of, arguments.args)), kwargs)

    def keep(self, span: Span, outputs: Sequence[Any]) -> None:
        """Keep what a block gave for a batch, without the hidden states."""
        self._given[span] = (None, *outputs[1:])


@dataclass
class Samples:
    """Hold the hidden states of all samples in batches, and the other arguments of each block.

    Attributes:
        hidden: inputs of the next block, one tensor [samples, ..., tokens, hidden] for each batch.
        one: the first sample as an input of the first block, [1, ..., tokens, hidden]; shows how any block runs.
        arguments: what each block gets beside the hidden states.
        sample_dim: the dimension of the samples in what blocks get: Gemma 3n's have [streams, samples, tokens, hidden].
        exact: `hidden` of the full-precision model, where the model that runs is being quantized; empty if nobody wants
            this second stream.
        device: where hidden states wait from one block to the next, "cpu" or "cuda:0".
        reached: the numbers of the blocks that the samples run through; a text passes over those that look at images.
        num_outputs: how many values the block that ran last returned as a tuple, whose first item are the hidden
            states; 0 for these alone.
    """

    hidden: list[torch.Tensor]
    one: torch.Tensor
    arguments: BlockArguments
    sample_dim: int = 0
    exact: list[torch.Tensor] = field(default_factory=list)
    num_outputs: int = 0
    reached: frozenset[int] = frozenset()
    device: str = "cpu"
    _carried: _CarriedValues = field(default_factory=_CarriedValues)

    def calls(self, index: int, block: nn.Module, device: str) -> list[Callable[[], torch.Tensor]]:
        """Return functions that each run a block on one batch."""
        run = partial(self.call, index, block, device)
        starts = [sum(map(len, self.hidden[:number])) for number in range(len(self.hidden))]
        return [partial(run, hidden, first=first) for hidden, first in zip(self.hidden, starts, strict=True)]

    def call(
        self, index: int, block: nn.Module, device: str, hidden: torch.Tensor, *, first: int, exact: bool = False
    ) -> torch.Tensor:
        """Return a block's output for a batch of hidden states [samples, ..., tokens, hidden].

        A block that the model passes over leaves them as they are.

        Args:
            index: the block's number.
            block: the block.
            device: where it runs.
            hidden: its inputs.
            first: the number of the batch's first sample.
            exact: whether they are those of `exact`.
        """
        if index not in self.reached:
            return hidden.to(device, non_blocking=True)
        span = Span(first, len(hidden), exact)
        other = self.arguments.of(index, span, device)
        if self.arguments.has_carried:
            other = self._carried.put_into(other, index, span)
        with PaddedProducts():
            output = block(self.as_given(hidden.to(device, non_blocking=True)), *other.args, **other.kwargs)
        # A list in the first GPT.
        several = isinstance(output, tuple | list)
        self.num_outputs = len(output) if several else 0
        if several and self.arguments.has_carried:
            self._carried.keep(span, output)
        tensor: torch.Tensor = output[0] if several else output
        return tensor.movedim(self.sample_dim, 0)

    def waiting(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states where they wait for the next block.

        From a GPU to main memory they go into pinned memory where there is some: that copy, and the one back, are
        queued behind what the GPU does, so that nobody waits for them.
        """
        if self.device == "cpu" and hidden.is_cuda:
            with suppress(RuntimeError):
                pinned = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True)
                return pinned.copy_(hidden, non_blocking=True)
        return hidden.to(self.device)

    def as_given(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states [samples, ..., tokens, hidden] as the model's blocks get and return them."""
        return hidden.movedim(0, self.sample_dim)


def activation_bytes(itemsize: int, widest: int, tokens: int) -> int:
    """Return the bytes of a block's widest activations at the moment when it holds most of them."""
    return _WIDEST_AT_ONCE * widest * itemsize * tokens


def samples_at_once(itemsize: int, widest: int, num_samples: int, seq_len: int) -> int:
    """Return how many samples run through a block in one batch.

    All of them if their activations fit 1 GiB, so that one forward is enough (`run_once`). Otherwise few: a block then
    runs once for each group of layers, and larger batches are not faster.

    Args:
        itemsize: bytes of an activation.
        widest: the most inputs or outputs of a layer.
        num_samples: number of all samples.
        seq_len: tokens of each sample.
    """
    sample_bytes = activation_bytes(itemsize, widest, seq_len)
    if num_samples * sample_bytes <= _WHOLE_BYTES:
        return num_samples
    return max(1, _BATCH_BYTES // sample_bytes)


def samples_of_a_part(itemsize: int, widest: int, seq_len: int) -> int:
    """Return how many samples run through a block at one time where only what leaves it is wanted, or some inputs.

    Args:
        itemsize, widest, seq_len: as for `samples_at_once`.
    """
    return max(1, _PART_BYTES // activation_bytes(itemsize, widest, seq_len))


def first_inputs(
    streamed: StreamedModel,
    tokens: torch.Tensor,
    samples_at_once: int,
    samples_of_a_part: int | None = None,
    *,
    states: str = "cpu",
) -> Samples:
    """Run samples up to the first block; return its inputs, and the other arguments of every block.

    Args:
        streamed: the model.
        tokens: int64 [samples, tokens].
        samples_at_once: samples of a batch.
        samples_of_a_part: samples of the parts of a batch that blocks are called with, too; None for whole ones alone.
        states: where hidden states wait from one block to the next.
    """
    samples = Samples([], torch.empty(0), BlockArguments(len(streamed.blocks)), device=states)

    def record(batch: torch.Tensor, first: int, *, exact: bool = False) -> torch.Tensor:
        hidden, recorded = _record_arguments(model.base_model, streamed, batch, samples)
        samples.arguments.keep(Span(first, len(batch), exact), recorded)
        samples.reached = frozenset(recorded)
        return hidden

    with streamed.outside() as model, torch.no_grad():
        one = record(tokens[:1], 0)
        samples.sample_dim = one.shape.index(1)
        samples.one = one.movedim(samples.sample_dim, 0)
        for start in range(0, len(tokens), samples_at_once):
            batch = tokens[start : start + samples_at_once]
            samples.hidden.append(samples.waiting(record(batch, start).movedim(samples.sample_dim, 0)))
            if samples_of_a_part is not None:
                for inner in range(0, len(batch), samples_of_a_part):
                    record(batch[inner : inner + samples_of_a_part], start + inner, exact=True)
    return samples


def lookup_gradients(
    streamed: StreamedModel,
    model: nn.Module,
    embedding: nn.Module,
    tokens: torch.Tensor,
    gradients: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    """Return the gradients with respect to what the token embedding gives, [samples, tokens, width] of each batch.

    Args:
        streamed: the model.
        model: the same, with what stands before the blocks loaded.
        embedding: its token embedding.
        tokens: int64 [samples, tokens].
        gradients: with respect to the first block's inputs, [samples, tokens, hidden] of each batch.
    """
    given: list[torch.Tensor] = []

    def hook(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        given.append(output.detach().requires_grad_())
        return given[-1]

    base: Any = model
    found = []
    handle = embedding.register_forward_hook(hook)
    try:
        for batch, gradient in zip(tokens.split([len(one) for one in gradients]), gradients, strict=True):
            samples = Samples([], torch.empty(0), BlockArguments(len(streamed.blocks)))
            hidden, _ = _record_arguments(base.base_model, streamed, batch, samples)
            (slope,) = torch.autograd.grad(hidden, given[-1], gradient.to(hidden.device))
            found.append(slope.to("cpu"))
    finally:
        handle.remove()
    return found


def _record_arguments(
    base_model: nn.Module, streamed: StreamedModel, batch: torch.Tensor, samples: Samples
) -> tuple[torch.Tensor, dict[int, Arguments]]:
    """Run a model with stand-ins for its blocks; return the first's hidden states, and the other arguments by number.

    Blocks that the model passes over have none.

    Blocks of some architectures return a tensor and others a tuple of some length: if the second block does not get the
    hidden states, or the model cannot unpack that many values, the next length is tried.

    Raises:
        UnsupportedModelError: blocks return something else.
    """
    first: list[torch.Tensor] = []
    recorded: dict[int, Arguments] = {}

    def stand_in(num_outputs: int, index: int, *args: Any, **kwargs: Any) -> Any:
        hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        if not recorded:
            first.append(hidden)
        elif hidden is not first[-1]:
            raise _WrongOutputError
        recorded[index] = Arguments(rest, kwargs)
        # The norm after the last block would take twice the hidden states in float32.
        if index == len(streamed.blocks) - 1:
            raise _StopForward
        return (hidden, *map(Carried, range(1, num_outputs))) if num_outputs else hidden

    for num_outputs in dict.fromkeys([samples.num_outputs, *range(MOST_OUTPUTS + 1)]):
        recorded.clear()
        # ValueError: too many values to unpack, or not enough.
        with (
            replaced_forwards(streamed.blocks, partial(stand_in, num_outputs)),
            suppress(_WrongOutputError, ValueError),
        ):
            with suppress(_StopForward):
                base_model(input_ids=batch.to(streamed.device), use_cache=False)
            if recorded:
                samples.num_outputs = num_outputs
                return first[-1], recorded
    kind = streamed.model.config.model_type
    raise UnsupportedModelError(
        f"{streamed.name} ({kind}) does not pass its hidden states from block to block as they are: take a method "
        "without text"
    )


class _StopForward(Exception):
    """Leave a model's forward once enough was recorded."""


class _WrongOutputError(Exception):
    """Leave a model's forward where its blocks return another kind of value."""


@contextmanager
def blocks_giving(streamed: StreamedModel, hidden: Callable[[], torch.Tensor], *, num_outputs: int) -> Iterator[None]:
    """Let each block of a model return the result of `hidden`, for the time of a `with` block.

    Args:
        streamed: the model.
        hidden: returns hidden states.
        reached: the numbers of the blocks that the samples run through; a text passes over those that look at images.
        num_outputs: how many values the architecture's blocks return, as `Samples` has it.
    """

    def stand_in(index: int, *args: Any, **kwargs: Any) -> Any:
        return outputs_of(hidden(), num_outputs)

    with replaced_forwards(streamed.blocks, stand_in):
        yield
