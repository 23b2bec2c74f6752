"""Choose the rank of each layer's repair by what it gives back to the model's outputs, under a budget of bytes.

The KL divergence that the change D of a weight causes is about 1/2 sum_n f_n (D H D^T)_nn nats per token. H is the
mean of x x^T over the layer's inputs, and f_n that of the n-th output's squared gradient (the diagonal of K-FAC's
second factor, arXiv 1503.05671, with labels of the model's own distribution). The squared singular values of
diag(f)^(1/2) D L, with L L^T = H, are what each further rank takes away of it, of any layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from qtoolkit.errors import ConfigError
from qtoolkit.records import OnProgress
from qtoolkit.sensitivity import inputs_of_groups
from qtoolkit.stream.backward import LoadedBlock, run_backward
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import weight_of
from qtoolkit.tensor.low_rank import damped_factor
from qtoolkit.units import format_bytes

# Enough for what a layer's ranks give back beside another's: samples and tokens of each.
_SAMPLES, _TOKENS = 32, 256
# A line of the header of safetensors for each of a layer's two matrices.
_HEADER_BYTES = 2 * 160


def measure_ranks(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    quantized: Callable[[str], torch.Tensor],
    tokens: torch.Tensor,
    on_progress: OnProgress,
) -> dict[str, torch.Tensor]:
    """Return what each further rank takes away of the divergence, nats per token float32 [ranks], by full names.

    Args:
        streamed: the model in full precision.
        layers: for each block, the names within it of the quantized layers.
        quantized: returns the quantized weight of a layer, float32 [out, in], by its full name.
        tokens: of the calibration text, int64 [samples, tokens]; some of them are read.
        on_progress: called for each block, forward and backward.

    Raises:
        UnsupportedModelError: the model passes more than hidden states from block to block, or computes NaN.
    """
    some = tokens[:_SAMPLES, :_TOKENS]
    losses = _Losses(layers, quantized, some.numel())
    run_backward(streamed, some, losses, on_progress, phase="measure", states=[])
    return losses.found


def choose_ranks(
    gains: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, int]], *, target: int, itemsize: int
) -> dict[str, int]:
    """Return the rank of each layer, 0 for none, so that most is taken away with a file of at most so many bytes.

    Args:
        gains: of `measure_ranks`, largest first.
        shapes: [out, in] of the layers.
        target: bytes of the file.
        itemsize: bytes of a number.

    Raises:
        ConfigError: no layer has room for one rank.

    Example: a rank of b costs as much as one of a, and its first gives back more.

        >>> shapes = {"a": (100, 100), "b": (100, 100)}
        >>> gains = {"a": torch.tensor([3.0, 2.0]), "b": torch.tensor([9.0, 1.0])}
        >>> choose_ranks(gains, shapes, target=1_500, itemsize=2)
        {'a': 1, 'b': 1}
    """
    left = target - _HEADER_BYTES * len(shapes)
    costs = {name: itemsize * sum(shape) for name, shape in shapes.items()}
    steps = sorted(
        (-gain / costs[name], name, number) for name, own in gains.items() for number, gain in enumerate(own.tolist())
    )
    ranks = dict.fromkeys(shapes, 0)
    for _, name, number in steps:
        # One after the other: a layer of which a rank did not fit takes no later one.
        if number == ranks[name] and costs[name] <= left:
            ranks[name] += 1
            left -= costs[name]
    if not any(ranks.values()):
        least = _HEADER_BYTES * len(shapes) + min(costs.values())
        raise ConfigError(
            f"target_size={format_bytes(target)} has no room for an adapter: give at least {format_bytes(least)}"
        )
    return ranks


class _Losses:
    """Add up squared gradients of the outputs of layers, and compute what their ranks give back; a `Watcher`.

    Attributes:
        found: by the full names of layers, see `measure_ranks`.
    """

    def __init__(
        self, layers: Sequence[Sequence[str]], quantized: Callable[[str], torch.Tensor], num_tokens: int
    ) -> None:
        self.found: dict[str, torch.Tensor] = {}
        self._layers = layers
        self._quantized = quantized
        self._num_tokens = num_tokens
        # Of the block in memory, by full names [out].
        self._squares: dict[str, torch.Tensor] = {}

    @contextmanager
    def watching(self, block: LoadedBlock) -> Iterator[tuple[()]]:
        """See `Watcher`."""
        names = self._layers[block.index]
        # Before the gradients, which use up what the block gets.
        groups = [
            (group, damped_factor(inputs.full() / max(1, inputs.num_inputs)))
            for group, inputs in inputs_of_groups(block, names)
        ]
        hooks = [
            block.module.get_submodule(name).register_forward_hook(partial(self._watch, f"{block.name}.{name}"))
            for name in names
        ]
        try:
            yield ()
        finally:
            for hook in hooks:
                hook.remove()
        for group, factor in groups:
            for name in group:
                self._compute(f"{block.name}.{name}", weight_of(block.module.get_submodule(name)), factor)
        self._squares.clear()

    def _watch(self, name: str, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._note, name))

    def _note(self, name: str, gradient: torch.Tensor) -> None:
        # [..., out] -> [out]
        squares = gradient.float().square().flatten(0, -2).sum(0)
        self._squares[name] = self._squares[name] + squares if name in self._squares else squares

    def _compute(self, name: str, weight: torch.Tensor, factor: torch.Tensor) -> None:
        """Compute what the ranks of one layer give back; nothing where no token of the text reaches it."""
        squares = self._squares.get(name)
        roots = weight.new_zeros(len(weight)).float() if squares is None else (squares / self._num_tokens).sqrt()
        lost = roots[:, None] * (weight.float() - self._quantized(name).to(weight.device)) @ factor
        gram = lost @ lost.T if len(lost) <= lost.shape[1] else lost.T @ lost
        self.found[name] = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).cpu() / 2

    def add(self, samples: slice, gradients: Sequence[torch.Tensor | None]) -> None:
        """See `Watcher`: nothing, since hooks have seen them."""
