"""Weigh each token of a calibration text by how much its place in the model changes the output.

GuidedQuant (arXiv 2505.07004, section 3) with one group: for layers that share their inputs, the Hessian of the loss is
approximated by X^T diag(w) X, where w_t is the mean of (dL/dz_tn)^2 over all outputs n of these layers, and z = X W^T.

Example: two tokens, whose outputs have the gradients (3, 1) and (1, 1). The means of their squares are 5 and 1, so that
they weigh 5/3 and 1/3.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.records import OnProgress
from qtoolkit.stream.backward import LoadedBlock, run_backward
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.groups import Group, is_indexed, trace
from qtoolkit.stream.journal import Journal
from qtoolkit.stream.samples import activation_bytes
from qtoolkit.stream.staged_tensors import StagedTensors

PHASE = "weigh"
# Weights above this quantile are lowered to it. Of SmolLM2-135M with 64 samples, the samples' first tokens hold up to
# 74 % of the weights of an attention's inputs: with 0.999 the Hessian is hardly more than theirs, with 0.99 as well
# known as from a fifth of the tokens, counted alike. With queries, keys and values alone in 2 bits, KL divergence is
# 0.247 with 0.999, 0.246 with 0.99, and 0.347 without weights.
CLIP_QUANTILE = 0.99
# Activations that a block stores for its gradients, as multiples of those that a forward holds at one time, and the
# limit of their bytes for the samples that run together.
STORED = 3
_BATCH_BYTES = 2**26
# How far the mean of stored weights may be from 1: they are rounded to float32.
_MEAN_ERROR = 1e-5


def token_weights(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    journal: Journal,
    on_progress: OnProgress,
) -> dict[str, torch.Tensor]:
    """Return the weights of all tokens for each layer, float32 [samples, tokens], from the journal if it has them.

    The journal stores them because another number of threads gives slightly different ones. Layers that share their
    inputs share their weights. Arguments and errors are those of `measure_token_weights`.
    """
    names = [
        f"{block}.{name}"
        for block, inner in zip(streamed.block_names, layers, strict=True)
        for name in inner
        if not is_indexed(name)
    ]
    stored = journal.read_token_weights(partial(_are_weights, names, tuple(tokens.shape)))
    if stored is not None:
        groups = [tuple(group) for group in stored.facts["groups"]]
        weights = {group: stored.tensors[group[0]][...] for group in groups}
    else:
        weights = measure_token_weights(streamed, layers, tokens, journal.folder, on_progress)
        facts = {"groups": [list(group) for group in weights]}
        journal.write_token_weights({group[0]: value for group, value in weights.items()}, facts)
    return {name: value for group, value in weights.items() for name in group}


def _are_weights(
    names: Sequence[str],
    shape: tuple[int, ...],
    tensors: Mapping[str, StoredTensor | torch.Tensor],
    facts: Mapping[str, Any],
) -> bool:
    """Check whether a journal's weights are those of layers with these names: each in one group, and valid values."""
    groups = facts.get("groups")
    if not (isinstance(groups, list) and all(isinstance(group, list) and group for group in groups)):
        return False
    members = [name for group in groups for name in group]
    if not all(isinstance(name, str) for name in members) or sorted(members) != sorted(names):
        return False
    if tensors.keys() != {group[0] for group in groups}:
        return False
    described = {(tuple(tensor.shape), tensor.dtype) for tensor in tensors.values()}
    return described <= {(shape, torch.float32)} and all(_weigh_one(tensor[...]) for tensor in tensors.values())


def _weigh_one(weights: torch.Tensor) -> bool:
    """Check whether weights are finite, not negative, and have the mean 1."""
    low, high = torch.aminmax(weights)
    return bool(low >= 0 and high.isfinite() and (weights.double().mean() - 1).abs() < _MEAN_ERROR)


def measure_token_weights(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    folder: Path | None,
    on_progress: OnProgress,
) -> dict[Group, torch.Tensor]:
    """Return the weights of all tokens for each group of layers that share their inputs, by one backward pass.

    Their mean is 1; they are clipped at their quantile `CLIP_QUANTILE`. Layers of experts, which get some of the tokens
    only, have none.

    Args:
        streamed: the model in full precision.
        layers: for each block, the names within it of the layers to quantize.
        tokens: calibration samples int64 [samples, tokens].
        folder: on the disk to which the inputs of all blocks are written meanwhile; None for temporary files' own.
        on_progress: called for each block, forward and backward.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
        UnsupportedModelError: the model computes NaN or infinity.
        DiskFullError: the disk has no room for the inputs of all blocks.
    """
    widest = max(max(weight.shape) for block in streamed.blocks for weight in block.parameters() if weight.dim() == 2)
    at_once = weighed_at_once(streamed.dtype.itemsize, widest, *tokens.shape)
    hidden_size = streamed.model.config.get_text_config(decoder=True).hidden_size
    size = staged_bytes(len(streamed.blocks), tokens.numel(), hidden_size, streamed.dtype.itemsize)
    squares = _OutputSquares(layers, tokens.shape)
    with StagedTensors(folder, size) as states:
        run_backward(streamed, tokens, squares, on_progress, phase=PHASE, states=states, samples_at_once=at_once)
    return {group: normalized(sums, f"{group[0]} of {streamed.name}") for group, sums in squares.sums.items()}


def weighed_at_once(itemsize: int, widest: int, num_samples: int, seq_len: int) -> int:
    """Return how many samples run through a block together, forward and backward."""
    return min(num_samples, max(1, _BATCH_BYTES // (STORED * activation_bytes(itemsize, widest, seq_len))))


def staged_bytes(num_blocks: int, num_tokens: int, hidden_size: int, itemsize: int) -> int:
    """Return the bytes of the inputs of all blocks and of the output of the last one."""
    return (num_blocks + 1) * num_tokens * hidden_size * itemsize


def normalized(squares: torch.Tensor, name: str) -> torch.Tensor:
    """Return weights with the mean 1, clipped at the quantile `CLIP_QUANTILE`.

    Args:
        squares: sum of squared gradients of each token, float32 [samples, tokens].
        name: of the layer, for errors.

    Raises:
        UnsupportedModelError: they hold NaN or infinity.
    """
    if not squares.isfinite().all():
        raise UnsupportedModelError(
            f"the gradients of {name} hold NaN or infinity, so that tokens cannot be weighed: leave out token_weights"
        )
    # Rounded up: of less than a hundred tokens, none is clipped.
    rank = math.ceil(CLIP_QUANTILE * squares.numel())
    clipped = squares.double().clamp(max=squares.flatten().kthvalue(rank).values.item())
    mean = clipped.mean()
    # Without any gradient, no token is better than another.
    return (clipped / mean).float() if mean > 0 else torch.ones_like(squares)


class _OutputSquares:
    """Add up the squared gradients of the outputs of each group of layers, token by token; a `Watcher`.

    Args:
        layers: for each block, the names within it of the layers to quantize.
        shape: of the tokens, [samples, tokens].

    Attributes:
        sums: of each group by its full names, float32 [samples, tokens].
    """

    def __init__(self, layers: Sequence[Sequence[str]], shape: torch.Size) -> None:
        self.sums: dict[Group, torch.Tensor] = {}
        self._layers = layers
        self._shape = shape
        # Of the samples that run.
        self._current: dict[Group, torch.Tensor] = {}

    @contextmanager
    def watching(self, block: LoadedBlock) -> Iterator[tuple[()]]:
        """See `Watcher`."""
        names = [name for name in self._layers[block.index] if not is_indexed(name)]
        handles = []
        for group in trace(block.module, names, block.run_one):
            full = tuple(f"{block.name}.{name}" for name in group)
            self.sums[full] = torch.zeros(self._shape)
            for name in group:
                hook = partial(self._watch, full)
                handles.append(block.module.get_submodule(name).register_forward_hook(hook))
        try:
            yield ()
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, group: Group, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        output.register_hook(partial(self._note, group))

    def _note(self, group: Group, gradient: torch.Tensor) -> None:
        squares = torch.linalg.vector_norm(gradient, dim=-1, dtype=torch.float32).square_().flatten()
        before = self._current.get(group)
        self._current[group] = squares if before is None else before + squares

    def add(self, samples: slice, gradients: Sequence[torch.Tensor | None]) -> None:
        """See `Watcher`."""
        for group, squares in self._current.items():
            own = self.sums[group][samples]
            if squares.numel() != own.numel():
                raise UnsupportedModelError(
                    f"{group[0]} gets {squares.numel()} of {own.numel()} tokens, so that tokens cannot be weighed for "
                    "it: exclude it, or leave out token_weights"
                )
            own.copy_(squares.view_as(own))
        self._current.clear()
