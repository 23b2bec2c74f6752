"""Compute gradients of a model with one block in memory at a time; only activations between blocks are stored.

Each block runs again before its gradients are computed, as in gradient checkpointing (arXiv 1604.06174), and its
weights are read again too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.run import check_block, check_outside, weight_of
from qtoolkit.stream.samples import Samples, blocks_giving, first_inputs
from qtoolkit.texts.self_calibration import draw

# Tokens whose logits are in memory at one time.
HEAD_TOKENS = 32


class Watcher(Protocol):
    """Receive the gradients of each block's layers."""

    def start(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Prepare for a block, given the weights W[out, in] of its layers by their full names."""

    def add(self, sample: int, gradients: Mapping[str, torch.Tensor]) -> None:
        """Receive the gradients [out, in] of one sample, for the layers that the sample went through."""


def run_backward(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    watcher: Watcher,
    on_progress: OnProgress,
    seed: int = 0,
) -> None:
    """Pass the gradients of each sample's loss to a watcher, for the blocks from last to first.

    The loss of a sample is -sum_t log p(y_t | x_1..x_t) over its tokens, with labels y_t drawn from the model's own
    distribution: the covariance of the gradients is then the Fisher information, and not the empirical one (Kunstner et
    al., arXiv 1905.12558).

    Args:
        streamed: the model.
        layers: for each block, the names within it of the layers whose gradients are computed.
        tokens: int64 [samples, tokens].
        watcher: receives the gradients.
        on_progress: called for each block that was run, forward and backward.
        seed: of the labels.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
    """
    check_outside(streamed)
    samples = first_inputs(streamed, tokens, 1)
    count = len(streamed.blocks)

    def report(done: int, name: str) -> None:
        on_progress(ProgressEvent("measure", done, 2 * count, "blocks", name))

    # For each block, its input for each sample, [1, tokens, hidden] on the CPU.
    states = []
    for index, name in enumerate(streamed.block_names):
        states.append(samples.hidden)
        with streamed.block(index) as block, torch.no_grad():
            check_block(streamed, index, block)
            samples.hidden = [call().to("cpu") for call in samples.calls(index, block, streamed.device)]
        report(index + 1, name)
    gradients = _gradients_of_outputs(streamed, tokens, samples, seed)
    for index in reversed(range(count)):
        name = streamed.block_names[index]
        with streamed.block(index) as block:
            linear: dict[str, Any] = {f"{name}.{layer}": block.get_submodule(layer) for layer in layers[index]}
            weights = [module.weight.requires_grad_() for module in linear.values()]
            watcher.start({layer: weight_of(module) for layer, module in linear.items()})
            for sample, hidden in enumerate(states.pop()):
                inputs = hidden.to(streamed.device).requires_grad_()
                output = samples.call(index, block, streamed.device, inputs)
                output_gradient = gradients[sample].to(streamed.device)
                computed = torch.autograd.grad(output, [inputs, *weights], output_gradient, allow_unused=True)
                gradients[sample] = computed[0].to("cpu")
                # None for an expert that the sample did not go through.
                of_weights: Sequence[torch.Tensor | None] = computed[1:]
                pairs = zip(linear.items(), of_weights, strict=True)
                # Conv1D stores [in, out].
                own = {
                    layer: gradient if isinstance(module, nn.Linear) else gradient.T
                    for (layer, module), gradient in pairs
                    if gradient is not None
                }
                watcher.add(sample, own)
        report(2 * count - index, name)


def _gradients_of_outputs(
    streamed: StreamedModel, tokens: torch.Tensor, samples: Samples, seed: int
) -> list[torch.Tensor]:
    """Return the gradient of each sample's loss with respect to the last block's output, [1, tokens, hidden]."""
    uniform = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed))  # [samples, tokens]
    gradients = []
    with streamed.outside(with_head=True) as model:
        for sample, hidden in enumerate(samples.hidden):
            parts = zip(
                hidden.split(HEAD_TOKENS, 1),
                tokens[sample].split(HEAD_TOKENS),
                uniform[sample].split(HEAD_TOKENS),
                strict=True,
            )
            of_parts = []
            for part, inputs, numbers in parts:
                output = part.to(streamed.device).requires_grad_()
                logits = _logits(streamed, model, inputs[None].to(streamed.device), output, samples.gives_tuple).float()
                cumulative = logits.detach().softmax(-1).cumsum(-1)  # [tokens, vocabulary]
                labels = draw(cumulative, numbers.to(streamed.device))  # [tokens]
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                of_parts.append(torch.autograd.grad(loss, output)[0].to("cpu"))
            gradients.append(torch.cat(of_parts, 1))
    return gradients


def _logits(
    streamed: StreamedModel, model: nn.Module, tokens: torch.Tensor, hidden: torch.Tensor, gives_tuple: bool
) -> torch.Tensor:
    """Return the logits [tokens, vocabulary] for an output of the last block, running the model without its blocks."""
    with blocks_giving(streamed, lambda: hidden, as_tuple=gives_tuple):
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits
