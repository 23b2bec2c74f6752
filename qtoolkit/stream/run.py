"""Quantize all blocks of a model, one after the other: load it, run the samples, quantize, store, free it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.forward import Call, collect, run_once
from qtoolkit.stream.groups import Group, trace, with_unseen
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.loading import check_finite
from qtoolkit.stream.samples import first_inputs, samples_at_once


class Accumulator(Protocol):
    """Collect the inputs of layers that share them, then quantize these layers."""

    def add(self, inputs: torch.Tensor, weights: torch.Tensor | None) -> None:
        """Add a batch of inputs [..., in]; `weights` [tokens] say how much each counts, None that all count alike."""

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, "Result"]:
        """Quantize the layers, given the weight W[out, in] of each by its name."""


class Result(NamedTuple):
    """Hold one quantized layer.

    Attributes:
        tensors: by their names in a layer, on the CPU.
        facts: JSON-ready values about it.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class BlockMethod(Protocol):
    """Quantize groups of layers that share their inputs.

    Attributes:
        true_sequential: whether a layer gets the outputs of already quantized layers of its block.
    """

    true_sequential: bool

    def start(self, names: Sequence[str], in_features: int) -> Accumulator:
        """Return a new accumulator for a group of layers, given by their full names."""

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weight W[out, in] that a layer's tensors encode, as a loaded model multiplies with it."""

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """Return whether tensors and facts, by full names, are valid results of `finish` for layers of these shapes."""


def quantize_blocks(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    on_progress: OnProgress,
    token_weights: Mapping[str, torch.Tensor],
) -> list[DoneBlock]:
    """Quantize all blocks; those that the journal holds already are only run.

    Args:
        streamed: the model.
        layers: for each block, the names within it of the layers to quantize.
        tokens: calibration samples int64 [num_samples, seq_len].
        method: quantizes each group of layers.
        journal: stores each block's result.
        on_progress: called for each layer, and for each block that was done before.
        token_weights: how much each token counts for a layer, by its full name, float32 [num_samples, seq_len]; layers
            without any count all tokens alike.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
    """
    check_outside(streamed)
    pairs = zip(streamed.blocks, layers, strict=True)
    widest = max(max(weight_of(block.get_submodule(name)).shape) for block, names in pairs for name in names)
    at_once = samples_at_once(streamed.dtype.itemsize, widest, *tokens.shape)
    samples = first_inputs(streamed, tokens, at_once)
    batch_weights = {name: weights.split(at_once) for name, weights in token_weights.items()}
    total = sum(map(len, layers))
    done = 0

    def report(layer: str, count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent("quantize", done, total, "layers", layer))

    results = []
    groups: dict[tuple[str, ...], tuple[Group, ...]] = {}
    for index, names in enumerate(layers):
        name = streamed.block_names[index]
        empty = streamed.blocks[index]
        shapes = {f"{name}.{layer}": tuple(weight_of(empty.get_submodule(layer)).shape) for layer in names}
        result = journal.read(index, partial(method.fits, shapes))
        with streamed.block(index) as module:
            block = _Block(name, module, samples.calls(index, module, streamed.device), method, batch_weights)
            if result is None:
                check_block(streamed, index, module)
                if tuple(names) not in groups:
                    one = partial(samples.call, index, module, streamed.device, samples.one)
                    groups[tuple(names)] = with_unseen(trace(module, names, one), names)
                outputs = block.quantize(groups[tuple(names)], report)
                result = journal.write(index, block.tensors, block.facts)
            else:
                block.restore(names, result.tensors)
                report(f"{name} (done before)", len(names))
                outputs = block.run()
            samples.hidden = [output.to("cpu") for output in outputs]
        samples.arguments[index] = {}
        results.append(result)
    return results


class _Block:
    """Quantize one block while it is in memory.

    Args:
        name: the block's full name.
        module: the block.
        calls: each runs the block on one batch of samples.
        method: quantizes each group of layers.
        batch_weights: by full names of layers, the weights of the tokens of each batch, [samples, tokens].

    Attributes:
        tensors: of the quantized layers, by full names.
        facts: of the same layers.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        calls: list[Call],
        method: BlockMethod,
        batch_weights: Mapping[str, Sequence[torch.Tensor]],
    ) -> None:
        self.name = name
        self.module = module
        self.calls = calls
        self.method = method
        self._batch_weights = batch_weights
        self.tensors: dict[str, torch.Tensor] = {}
        self.facts: dict[str, Any] = {}

    def restore(self, names: Sequence[str], tensors: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """Set the weights of layers from their stored tensors."""
        for layer in names:
            prefix = f"{self.name}.{layer}."
            own = {key.removeprefix(prefix): value[...] for key, value in tensors.items() if key.startswith(prefix)}
            self._set_weight(layer, own)

    def run(self) -> list[torch.Tensor]:
        """Return the block's output for each batch of samples, with its current weights."""
        with torch.no_grad():
            # Moved to the CPU one by one, so that a GPU does not hold the outputs of all samples.
            return [call().to("cpu") for call in self.calls]

    def quantize(self, groups: Sequence[Group], report: Callable[[str], None]) -> list[torch.Tensor]:
        """Quantize the layers group by group; return the outputs of the quantized block."""
        if self.method.true_sequential and len(self.calls) == 1:
            return [self._quantize_once(groups, report)]
        for together in [[group] for group in groups] if self.method.true_sequential else [groups]:
            accumulators = {group[0]: self._start(group) for group in together}
            for batch, call in enumerate(self.calls):
                self._collect(batch, call, accumulators)
            for group in together:
                self._finish(group, accumulators.pop(group[0]), report)
        return self.run()

    def _collect(self, batch: int, call: Call, accumulators: Mapping[str, Accumulator]) -> None:
        """Run a batch, and add the inputs of groups to their accumulators, by the name of each group's first layer."""

        def add(name: str, x: torch.Tensor) -> None:
            accumulators[name].add(x, self._weights(name, batch))

        collect(self.module, [*accumulators], [call], add)

    def _weights(self, layer: str, batch: int) -> torch.Tensor | None:
        """Return the weights [tokens] of a batch for a layer; None if its tokens count alike."""
        weights = self._batch_weights.get(f"{self.name}.{layer}")
        return None if weights is None else weights[batch].flatten()

    def _quantize_once(self, groups: Sequence[Group], report: Callable[[str], None]) -> torch.Tensor:
        """Quantize each group when it is reached in the one forward of a single batch; return the block's output."""
        pending = {group[0]: group for group in groups}

        def quantize_group(name: str, x: torch.Tensor) -> None:
            # A layer may be called again; it is quantized at the first call.
            group = pending.pop(name, None)
            if group is not None:
                accumulator = self._start(group)
                accumulator.add(x, self._weights(name, 0))
                self._finish(group, accumulator, report)

        output = run_once(self.module, [*pending], self.calls[0], quantize_group)
        for group in pending.values():
            self._finish(group, self._start(group), report)
        return output

    def _start(self, group: Group) -> Accumulator:
        full = [f"{self.name}.{layer}" for layer in group]
        return self.method.start(full, weight_of(self.module.get_submodule(group[0])).shape[1])

    def _finish(self, group: Group, accumulator: Accumulator, report: Callable[[str], None]) -> None:
        weights = {layer: weight_of(self.module.get_submodule(layer)) for layer in group}
        for layer, (tensors, facts) in accumulator.finish(weights).items():
            self._set_weight(layer, tensors)
            self.tensors.update({f"{self.name}.{layer}.{key}": value for key, value in tensors.items()})
            self.facts[f"{self.name}.{layer}"] = facts
            report(f"{self.name}.{layer}")

    def _set_weight(self, layer: str, tensors: Mapping[str, torch.Tensor]) -> None:
        linear: Any = self.module.get_submodule(layer)
        old = linear.weight
        weight = self.method.dequantize(tensors).to(old.device, old.dtype)
        # A new tensor: the old one may belong to a model that the user has loaded.
        full = weight if isinstance(linear, nn.Linear) else weight.T
        linear.weight = nn.Parameter(full.contiguous(), requires_grad=False)


def check_outside(streamed: StreamedModel) -> None:
    """Refuse NaN and infinity in the layers outside the blocks, before hours of work that would all give NaN.

    Raises:
        CheckpointError: a tensor holds one; the message names it.
    """
    in_blocks = tuple(f"{name}." for name in streamed.block_names)
    for key, name in streamed.name_of.items():
        if not name.startswith(in_blocks):
            check_finite(streamed.name, key, streamed.tensors[key][...])


def check_block(streamed: StreamedModel, index: int, module: nn.Module) -> None:
    """Refuse NaN and infinity in any weight of block `index`, norms and biases included.

    Raises:
        CheckpointError: a weight holds one; the message names it.
    """
    for name, parameter in module.named_parameters():
        check_finite(streamed.name, f"{streamed.block_names[index]}.{name}", parameter.detach())


def weight_of(linear: Any) -> torch.Tensor:
    """Return a linear layer's weight as W[out, in]; GPT-2's Conv1D stores it transposed."""
    weight: torch.Tensor = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear) else weight.T
