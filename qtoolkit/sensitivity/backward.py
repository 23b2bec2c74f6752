"""Gradients of a model of which one block is in memory at a time: activations are kept between blocks alone.

Each block is run again before its gradients are taken, as in gradient checkpointing (arXiv 1604.06174), and its weights
are read again too.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream import StreamedModel
from qtoolkit.stream.run import check_block, check_outside, weight_of
from qtoolkit.stream.samples import Samples, blocks_giving, first_inputs
from qtoolkit.texts.self_calibration import draw

# Tokens whose logits are in memory at one time.
HEAD_TOKENS = 32


class Watcher(Protocol):
    """What is done with the gradients of a block's layers."""

    def start(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Before a block's first sample: its layers' weights by their full names, W[out, in]."""

    def add(self, sample: int, gradients: Mapping[str, torch.Tensor]) -> None:
        """The gradients of one sample, [out, in]; of layers that the sample went through."""


def run_backward(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    watcher: Watcher,
    on_progress: OnProgress,
    seed: int = 0,
) -> None:
    """Show a watcher the gradient of each sample's loss, the blocks from last to first.

    The loss of a sample is -sum_t log p(y_t | x_1..x_t) over its tokens, with labels y_t drawn from the model's own
    distribution: the covariance of the gradients is then the Fisher information, and not the empirical one (Kunstner et
    al., arXiv 1905.12558).

    Args:
        streamed: the model.
        layers: for each block, the names within it of the layers that are watched.
        tokens: int64 [samples, tokens].
        watcher: is shown the gradients.
        on_progress: told of each block that was run, forth and back.
        seed: of the labels.
    """
    check_outside(streamed)
    samples = first_inputs(streamed, tokens, 1)
    count = len(streamed.blocks)

    def report(done: int, name: str) -> None:
        on_progress(ProgressEvent("measure", done, 2 * count, "blocks", name))

    # Block -> what each sample is when it comes in, [1, tokens, hidden] on the CPU.
    states = []
    for index, name in enumerate(streamed.block_names):
        states.append(samples.hidden)
        with streamed.block(index) as block, torch.no_grad():
            check_block(streamed, index, block)
            samples.hidden = [call().to("cpu") for call in samples.calls(index, block, streamed.device)]
        report(index + 1, name)
    gradients = _at_the_top(streamed, tokens, samples, seed)
    for index in reversed(range(count)):
        name, inputs = streamed.block_names[index], states.pop()
        with streamed.block(index) as block:
            linear: dict[str, Any] = {f"{name}.{layer}": block.get_submodule(layer) for layer in layers[index]}
            weights = [module.weight.requires_grad_() for module in linear.values()]
            watcher.start({layer: weight_of(module) for layer, module in linear.items()})
            for sample, hidden in enumerate(inputs):
                start = hidden.to(streamed.device).requires_grad_()
                output = samples.call(index, block, streamed.device, start)
                arriving = gradients[sample].to(streamed.device)
                # A sample may go past some experts.
                found: list[Any] = list(torch.autograd.grad(output, [start, *weights], arriving, allow_unused=True))
                gradients[sample] = found.pop(0).to("cpu")
                pairs = zip(linear.items(), found, strict=True)
                # Conv1D keeps [in, out].
                own = {
                    layer: gradient if isinstance(module, nn.Linear) else gradient.T
                    for (layer, module), gradient in pairs
                    if gradient is not None
                }
                watcher.add(sample, own)
        report(2 * count - index, name)


def _at_the_top(streamed: StreamedModel, tokens: torch.Tensor, samples: Samples, seed: int) -> list[torch.Tensor]:
    """The gradients of each sample's loss by what comes out of the last block, [1, tokens, hidden] on the CPU."""
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
            own = []
            for part, inputs, numbers in parts:
                start = part.to(streamed.device).requires_grad_()
                logits = _logits(streamed, model, inputs[None].to(streamed.device), start, samples.gives_tuple).float()
                cumulative = logits.detach().softmax(-1).cumsum(-1)  # [tokens, vocabulary]
                labels = draw(cumulative, numbers.to(streamed.device))  # [tokens]
                loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
                own.append(torch.autograd.grad(loss, start)[0].to("cpu"))
            gradients.append(torch.cat(own, 1))
    return gradients


def _logits(
    streamed: StreamedModel, model: nn.Module, tokens: torch.Tensor, hidden: torch.Tensor, gives_tuple: bool
) -> torch.Tensor:
    """The logits [tokens, vocabulary] of what comes out of the last block, which stand-ins give."""
    with blocks_giving(streamed, lambda: hidden, as_tuple=gives_tuple):
        logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits[0]
    return logits
