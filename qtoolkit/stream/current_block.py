"""Work on the one block that is in memory: observe what its layers get, solve them, put their results in place."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.stream.block_method import Accumulator, BlockMethod
from qtoolkit.stream.exact_stream import Batch, ExactStream
from qtoolkit.stream.expert_inputs import ExpertInputs
from qtoolkit.stream.forward import Call, collect
from qtoolkit.stream.groups import Group, is_indexed

if TYPE_CHECKING:
    from qtoolkit.stream.residuals import Corrections


class CurrentBlock:
    """Hold the block that is in memory, and what its groups of layers get.

    Args:
        name: the block's full name.
        module: the block.
        method: quantizes each group of layers.
        exact: runs it as the full-precision model does; None without a second stream.
        batch_weights: by full names of layers, the weights of the tokens of each batch, [samples, tokens].

    Attributes:
        corrections: what corrects each group; empty without a second stream.
        experts: tokens that enter the experts.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        method: BlockMethod,
        exact: ExactStream | None,
        batch_weights: Mapping[str, Sequence[torch.Tensor]],
    ) -> None:
        self.name = name
        self.module = module
        self.method = method
        self.exact = exact
        self.corrections: Corrections = {}
        self.experts = ExpertInputs(module, [])
        self._batch_weights = batch_weights

    def see_experts(self, groups: Sequence[Group]) -> None:
        """Begin to keep tokens that enter the experts among the layers of these groups."""
        self.experts = ExpertInputs(self.module, [layer for group in groups for layer in group])

    def restore(self, names: Sequence[str], tensors: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """Set the weights of layers from their stored tensors."""
        for layer in names:
            prefix = f"{self.name}.{layer}."
            own = {key.removeprefix(prefix): value[...] for key, value in tensors.items() if key.startswith(prefix)}
            self._set_weight(layer, own)

    def batch(self, index: int, groups: Sequence[Group], *, to_end: bool) -> Batch:
        """Return what the groups that are quantized next get in a batch, but for what the quantized model has.

        Args:
            index: the number of the batch.
            groups: that are quantized next.
            to_end: whether they are the last ones of the block.
        """
        weights = {}
        for group in groups:
            batches = self._batch_weights.get(f"{self.name}.{group[0]}")
            if batches is not None:
                weights[group] = batches[index]
        if self.exact is None:
            return Batch(self.module, {}, {}, weights)
        corrections = {group: self.corrections[group] for group in groups if group in self.corrections}
        exact = self.exact.see(index, corrections, to_end=to_end)
        return Batch(self.module, corrections, exact, weights)

    def accumulate(
        self, call: Call, groups: Sequence[Group], batch: Batch, accumulators: Mapping[str, Accumulator]
    ) -> None:
        """Run a batch, and add what groups get to their accumulators, by the name of each group's first layer."""
        by_first = {group[0]: group for group in groups}

        def note(name: str, x: torch.Tensor) -> None:
            batch.note(name, x)
            if name in by_first:
                accumulators[name].add(batch.inputs(by_first[name], x))

        collect(self.module, [*batch.residual_modules, *by_first], [call], note)

    def start(self, group: Group) -> Accumulator:
        """Return a new accumulator for a group."""
        full = [f"{self.name}.{layer}" for layer in group]
        return self.method.start(full, weight_of(self.module.get_submodule(group[0])).shape[1])

    def solved(self, group: Group, accumulator: Accumulator) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Quantize a group, and put it in place; return its tensors and facts, by full names."""
        if is_indexed(group[0]) and accumulator.wants_more:
            inputs = self.experts.of(group[0])
            if inputs is not None:
                accumulator.lean_on(inputs)
        weights = {layer: weight_of(self.module.get_submodule(layer)) for layer in group}
        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}
        for layer, result in accumulator.finish(weights).items():
            self._set_weight(layer, result.tensors)
            tensors.update({f"{self.name}.{layer}.{key}": value for key, value in result.tensors.items()})
            facts[f"{self.name}.{layer}"] = result.facts
        return tensors, facts

    def _set_weight(self, layer: str, tensors: Mapping[str, torch.Tensor]) -> None:
        linear: Any = self.module.get_submodule(layer)
        old = linear.weight
        weight = self.method.dequantize(f"{self.name}.{layer}", tensors).to(old.device, old.dtype)
        # A new tensor: the old one may belong to a model that the user has loaded.
        full = weight if isinstance(linear, nn.Linear) else weight.T
        linear.weight = nn.Parameter(full.contiguous(), requires_grad=False)


def run_all(calls: Sequence[Call], waiting: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Return a block's output for each batch of samples, where `waiting` puts it (`Samples.waiting`)."""
    with torch.no_grad():
        # Moved one by one, so that a GPU does not hold the outputs of all samples where these wait in main memory.
        return [waiting(call()) for call in calls]


def weight_of(linear: Any) -> torch.Tensor:
    """Return a linear layer's weight as W[out, in]; GPT-2's Conv1D stores it transposed."""
    weight: torch.Tensor = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear) else weight.T
