"""Compute gradients of a model with one block in memory at a time; only activations between blocks are stored.

Each block runs again before its gradients are computed, as in gradient checkpointing (arXiv 1604.06174), and its
weights are read again too.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.forward import Call
from qtoolkit.stream.run import check_block, check_outside
from qtoolkit.stream.samples import Samples, blocks_giving, first_inputs
from qtoolkit.texts.self_calibration import draw

# Logits that are in memory at one time, and the fewest tokens that they are of.
_LOGITS = 2**23
_FEWEST_TOKENS = 32
# Copies of these logits in float32: themselves, their softmax, its sums, and their gradient.
LOGITS_AT_ONCE = 4


@dataclass(frozen=True)
class LoadedBlock:
    """Describe the block that is in memory.

    Attributes:
        index: its position in the model.
        name: its full name.
        module: the block itself.
        run_one: runs it on one sample.
        calls: each runs it on one batch of samples.
    """

    index: int
    name: str
    module: nn.Module
    run_one: Call
    calls: Sequence[Call]


class Watcher(Protocol):
    """Receive the gradients of each block."""

    def watching(self, block: LoadedBlock) -> AbstractContextManager[Sequence[torch.Tensor]]:
        """Prepare for a block, for the time of a `with` block; yield those of its weights that `add` gets gradients of.

        Hooks that it registers see gradients of what is between the weights.
        """

    def add(self, samples: slice, gradients: Sequence[torch.Tensor | None]) -> None:
        """Receive the gradients of these samples; None for a weight that they did not go through."""


@dataclass(frozen=True)
class Top:
    """Describe what stands above the blocks while it is in memory.

    Attributes:
        model: with everything outside its blocks loaded.
        outputs: what the last block gave, [samples, tokens, hidden] of each batch.
        logits: returns the logits [tokens, vocabulary] of tokens int64 [1, tokens] and outputs [1, tokens, hidden].
    """

    model: nn.Module
    outputs: Sequence[torch.Tensor]
    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Stack(Protocol):
    """Keep tensors, of which the last one is needed first: a list, or `StagedTensors` on the disk."""

    def append(self, tensor: torch.Tensor, /) -> None:
        """Put a tensor on top."""

    def pop(self) -> torch.Tensor:
        """Take the last tensor off."""

    def __getitem__(self, index: int, /) -> torch.Tensor: ...


def run_backward(
    streamed: StreamedModel,
    tokens: torch.Tensor,
    watcher: Watcher,
    on_progress: OnProgress,
    *,
    phase: str,
    states: Stack,
    samples_at_once: int = 1,
    seed: int = 0,
    on_top: Callable[[Top], None] | None = None,
) -> list[torch.Tensor]:
    """Pass the gradients of the samples' loss to a watcher, for the blocks from last to first.

    The loss of a sample is -sum_t log p(y_t | x_1..x_t) over its tokens, with labels y_t drawn from the model's own
    distribution: the covariance of the gradients is then the Fisher information, and not the empirical one (Kunstner et
    al., arXiv 1905.12558).

    Args:
        streamed: the model.
        tokens: int64 [samples, tokens].
        watcher: receives the gradients.
        on_progress: called for each block that was run, forward and backward, and between them for each batch.
        phase: of the progress events.
        states: empty; keeps the inputs of all blocks, [samples_at_once, tokens, hidden] each.
        samples_at_once: samples that run through a block together, whose gradients are added up.
        seed: of the labels.
        on_top: called while what stands above the blocks is in memory, before the first gradient is computed.

    Returns:
        The gradients with respect to the first block's inputs, [samples, tokens, hidden] of each batch.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
        UnsupportedModelError: the model computes NaN or infinity.
    """
    check_outside(streamed)
    samples = first_inputs(streamed, tokens, samples_at_once)
    if samples.arguments.has_state or samples.sample_dim:
        kind = streamed.model.config.model_type
        raise UnsupportedModelError(
            f"{streamed.name} ({kind}) passes more from block to block than one tensor of hidden states, whose "
            "gradients are not computed: take a method or an option that needs no gradients"
        )
    parts = [slice(start, start + samples_at_once) for start in range(0, len(tokens), samples_at_once)]
    count = len(streamed.blocks)

    def report(done: int, what: str) -> None:
        on_progress(ProgressEvent(phase, done, 2 * count, "blocks", what))

    for hidden in samples.hidden:
        states.append(hidden)
    samples.hidden = []
    for index, name in enumerate(streamed.block_names):
        with streamed.block(index) as block, torch.no_grad():
            check_block(streamed, index, block)
            for number in range(len(parts)):
                hidden = states[index * len(parts) + number]
                output = samples.call(index, block, streamed.device, hidden, first=parts[number].start).to("cpu")
                _check_finite(streamed, name, output)
                states.append(output)
        report(index + 1, name)
    # By batch, in reverse: of the last block's output, then of the input of each block.
    gradients = []
    uniform = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))  # [samples, tokens]
    with streamed.outside(with_head=True) as model:
        if on_top is not None:
            outputs = [states[count * len(parts) + number] for number in range(len(parts))]
            on_top(Top(model, outputs, partial(_logits, streamed, model, num_outputs=samples.num_outputs)))
        for part in reversed(parts):
            gradients.append(_output_gradient(streamed, model, tokens[part], states.pop(), samples, uniform[part]))
            report(count, f"output head, {len(gradients)} of {len(parts)}")
    for index in reversed(range(count)):
        name = streamed.block_names[index]
        with streamed.block(index) as block:
            block.requires_grad_(requires_grad=False)
            run = partial(samples.call, index, block, streamed.device)
            calls = [
                partial(_run_batch, partial(run, first=part.start), states, index * len(parts) + number)
                for number, part in enumerate(parts)
            ]
            one = partial(run, samples.one, first=0)
            with watcher.watching(LoadedBlock(index, name, block, one, calls)) as weights:
                for number, part in enumerate(reversed(parts)):
                    inputs = states.pop().to(streamed.device).requires_grad_()
                    output_gradient = gradients[number].to(streamed.device)
                    output = run(inputs, first=part.start)
                    computed = torch.autograd.grad(output, [inputs, *weights], output_gradient, allow_unused=True)
                    gradients[number] = computed[0].to("cpu")
                    _check_finite(streamed, f"the gradients of {name}", gradients[number])
                    watcher.add(part, computed[1:])
        report(2 * count - index, name)
    return gradients[::-1]


def _run_batch(run: Callable[..., torch.Tensor], states: Stack, number: int) -> torch.Tensor:
    """Run a block on the inputs that are kept under a number."""
    return run(states[number])


def tokens_with_logits(vocab_size: int) -> int:
    """Return how many tokens' logits are in memory at one time."""
    return max(_FEWEST_TOKENS, _LOGITS // vocab_size)


def _output_gradient(
    streamed: StreamedModel,
    model: nn.Module,
    tokens: torch.Tensor,
    hidden: torch.Tensor,
    samples: Samples,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """Return the gradient of the loss with respect to the last block's output, [samples, tokens, hidden].

    That with respect to the logits is p - y, the probabilities less the label's one. The norm and the head work token
    by token: a part of a sample is run as a sample of its own.

    Args:
        streamed: the model.
        model: the same, with everything outside its blocks loaded.
        tokens: int64 [samples, tokens].
        hidden: the last block's output [samples, tokens, hidden].
        samples: how blocks are called.
        uniform: a random number for each label, float32 [samples, tokens].
    """
    size = tokens_with_logits(streamed.model.config.get_text_config(decoder=True).vocab_size)
    gradient = torch.empty_like(hidden)
    for sample in range(len(tokens)):
        for start in range(0, tokens.shape[1], size):
            some = slice(start, start + size)
            output = hidden[sample : sample + 1, some].to(streamed.device).requires_grad_()
            logits = _logits(
                streamed, model, tokens[sample : sample + 1, some], output, num_outputs=samples.num_outputs
            )
            slope = logits.detach().softmax(-1, dtype=torch.float32)  # [tokens, vocabulary]
            labels = draw(slope.cumsum(-1), uniform[sample, some].to(streamed.device))  # [tokens]
            slope[torch.arange(len(labels), device=labels.device), labels] -= 1
            (part,) = torch.autograd.grad(logits, output, slope.to(logits.dtype))
            gradient[sample, some] = part[0].to("cpu")
    _check_finite(streamed, "its output head", gradient)
    return gradient


def _logits(
    streamed: StreamedModel, model: nn.Module, tokens: torch.Tensor, hidden: torch.Tensor, *, num_outputs: int
) -> torch.Tensor:
    """Return the logits [tokens, vocabulary] for an output of the last block, running the model without its blocks."""
    with blocks_giving(streamed, lambda: hidden, num_outputs=num_outputs):
        logits: torch.Tensor = model(input_ids=tokens.to(streamed.device), use_cache=False).logits[0]
    return logits


def _check_finite(streamed: StreamedModel, where: str, values: torch.Tensor) -> None:
    """Refuse NaN and infinity in what a model computes.

    Raises:
        UnsupportedModelError: there is one; the message says where.
    """
    low, high = torch.aminmax(values)
    if not (low.isfinite() and high.isfinite()):
        dtype = str(streamed.dtype).removeprefix("torch.")
        raise UnsupportedModelError(
            f"{streamed.name} computes NaN or infinity in {dtype} at {where}, so that no gradients can be measured: "
            "load it in another dtype"
        )
