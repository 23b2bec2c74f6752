"""A job on all blocks of a model: each is read, run on the samples, quantized, kept, and forgotten."""

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
    """Takes the inputs that layers share, and quantizes these layers when it has seen all."""

    def add(self, inputs: torch.Tensor) -> None:
        """See inputs [..., in]."""

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Mapping[str, "Result"]:
        """The tensors and facts of each layer, from its weight W[out, in]; tensors by their names in a layer."""


class Result(NamedTuple):
    """One layer, quantized.

    Attributes:
        tensors: by their names in a layer, on the CPU.
        facts: JSON-ready values about it.
    """

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]


class BlockMethod(Protocol):
    """What a method does with a group of layers that are given the same inputs."""

    true_sequential: bool

    def start(self, names: Sequence[str], in_features: int) -> Accumulator:
        """Before the first inputs of a group; `names` are full names of its layers."""

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight W[out, in] that a layer's tensors stand for, as a loaded model multiplies with it."""

    def fits(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Mapping[str, StoredTensor | torch.Tensor],
        facts: Mapping[str, Any],
    ) -> bool:
        """Whether tensors and facts, by full names, are such as `finish` gives for layers of these shapes."""


def quantize_blocks(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    on_progress: OnProgress,
) -> list[DoneBlock]:
    """Quantize all blocks; those that the journal has are only run.

    Args:
        streamed: the model.
        layers: for each block, the names within it of the layers to quantize.
        tokens: calibration samples int64 [num_samples, seq_len].
        method: what is done with each group of layers.
        journal: keeps each block's result.
        on_progress: told of each layer, and of each block that was found done.

    Raises:
        CheckpointError: a weight that holds NaN or infinity.
    """
    check_outside(streamed)
    pairs = zip(streamed.blocks, layers, strict=True)
    widest = max(max(weight_of(block.get_submodule(name)).shape) for block, names in pairs for name in names)
    samples = first_inputs(streamed, tokens, samples_at_once(streamed.dtype.itemsize, widest, *tokens.shape))
    total, done = sum(map(len, layers)), 0

    def report(layer: str, count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent("quantize", done, total, "layers", layer))

    results = []
    groups: dict[tuple[str, ...], tuple[Group, ...]] = {}
    for index, names in enumerate(layers):
        name, meta = streamed.block_names[index], streamed.blocks[index]
        shapes = {f"{name}.{layer}": tuple(weight_of(meta.get_submodule(layer)).shape) for layer in names}
        result = journal.read(index, partial(method.fits, shapes))
        with streamed.block(index) as module:
            block = _Block(name, module, samples.calls(index, module, streamed.device), method)
            one = partial(samples.call_one, index, module, streamed.device)
            if result is None:
                check_block(streamed, index, module)
                if tuple(names) not in groups:
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
    """One block while it is in memory.

    Attributes:
        tensors: of the layers that are quantized, by full names.
        facts: of the same layers.
    """

    def __init__(self, name: str, module: nn.Module, calls: list[Call], method: BlockMethod) -> None:
        self.name, self.module, self.calls, self.method = name, module, calls, method
        self.tensors: dict[str, torch.Tensor] = {}
        self.facts: dict[str, Any] = {}

    def restore(self, names: Sequence[str], tensors: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """Put the weights in place that were quantized before."""
        for layer in names:
            prefix = f"{self.name}.{layer}."
            own = {key.removeprefix(prefix): value[...] for key, value in tensors.items() if key.startswith(prefix)}
            self._set_weight(layer, own)

    def run(self) -> list[torch.Tensor]:
        """What the block makes of each batch of samples, with the weights that it has now."""
        with torch.no_grad():
            # To the CPU one by one: a GPU need not hold the outputs of all samples.
            return [call().to("cpu") for call in self.calls]

    def quantize(self, groups: Sequence[Group], report: Callable[[str], None]) -> list[torch.Tensor]:
        """Quantize the layers group by group; give what the block makes of the samples then."""
        if not self.method.true_sequential:
            accumulators = {group[0]: self._start(group) for group in groups}
            collect(self.module, [*accumulators], self.calls, lambda name, x: accumulators[name].add(x))
            for group in groups:
                self._finish(group, accumulators.pop(group[0]), report)
            return self.run()
        if len(self.calls) > 1:
            for group in groups:
                accumulator = self._start(group)
                collect(self.module, group[:1], self.calls, lambda _, x: accumulator.add(x))  # noqa: B023
                self._finish(group, accumulator, report)
            return self.run()
        waiting = {group[0]: group for group in groups}

        def see(name: str, x: torch.Tensor) -> None:
            # A layer that a block calls again is done by then.
            group = waiting.pop(name, None)
            if group is not None:
                accumulator = self._start(group)
                accumulator.add(x)
                self._finish(group, accumulator, report)

        output = run_once(self.module, [*waiting], self.calls[0], see)
        for group in waiting.values():
            self._finish(group, self._start(group), report)
        return [output]

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
        # Another tensor, since the old one may be that of a model that somebody has loaded.
        full = weight if isinstance(linear, nn.Linear) else weight.T
        linear.weight = nn.Parameter(full.contiguous(), requires_grad=False)


def check_outside(streamed: StreamedModel) -> None:
    """Refuse NaN and infinity before and after the blocks, before hours of work: all that follows would be NaN.

    Raises:
        CheckpointError: a tensor holds one; it is named.
    """
    in_blocks = tuple(f"{name}." for name in streamed.block_names)
    for key, name in streamed.name_of.items():
        if not name.startswith(in_blocks):
            check_finite(streamed.name, key, streamed.tensors[key][...])


def check_block(streamed: StreamedModel, index: int, module: nn.Module) -> None:
    """Refuse NaN and infinity in any weight of block `index`, its norms and biases among them.

    Raises:
        CheckpointError: one holds some; it is named.
    """
    for name, parameter in module.named_parameters():
        check_finite(streamed.name, f"{streamed.block_names[index]}.{name}", parameter.detach())


def weight_of(linear: Any) -> torch.Tensor:
    """A linear layer's weight as W[out, in]; GPT-2's Conv1D keeps it transposed."""
    weight: torch.Tensor = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear) else weight.T
