"""Run a block with its original weights over the hidden states of the full-precision model: the second stream."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from qtoolkit.stream.forward import collect, run_once
from qtoolkit.stream.groups import Group, GroupInputs
from qtoolkit.stream.residuals import Corrections


class Batch:
    """Put together what groups of layers get in one batch, while it runs through the block that is being quantized.

    Args:
        module: the block.
        corrections: what corrects the groups that are quantized next; empty without a second stream.
        exact: by group, what the full-precision model has: the layers' inputs, or the residual stream after the sum.
        weights: by group, how much each token counts, [samples, tokens]; groups without any count all tokens alike.

    Attributes:
        residual_modules: modules whose inputs are the residual stream before a sum.
    """

    def __init__(
        self,
        module: nn.Module,
        corrections: Corrections,
        exact: dict[Group, torch.Tensor],
        weights: Mapping[Group, torch.Tensor],
    ) -> None:
        self.residual_modules = [add.before for add in corrections.values() if add is not None]
        self._module = module
        self._corrections = corrections
        # Values are taken out when they are used, so that each is freed as soon as it can be.
        self._exact = exact
        self._weights = weights
        self._residuals: dict[str, torch.Tensor] = {}

    def note(self, name: str, x: torch.Tensor) -> None:
        """Remember the input of a module if it is the residual stream before a sum."""
        if name in self.residual_modules:
            self._residuals[name] = x

    def inputs(self, group: Group, x: torch.Tensor) -> GroupInputs:
        """Return what a group gets, given the inputs of its layers."""
        weights = self._weights[group].flatten() if group in self._weights else None
        if group not in self._corrections:
            return GroupInputs(x, weights=weights)
        exact, add = self._exact.pop(group), self._corrections[group]
        if add is None:
            return GroupInputs(x, exact=exact, weights=weights)
        # A call of the layer would run its hooks.
        stream = self._module.get_submodule(group[0]).forward(x)
        stream += self._residuals.pop(add.before).reshape(stream.shape)
        # In place: the stream as the block itself would round it, then what it lacks.
        lacking = torch.sub(exact.reshape(stream.shape), stream, out=stream)
        return GroupInputs(x, lacking=lacking, weights=weights)


class ExactStream:
    """Run one block as the full-precision model does, while its layers are quantized one group after the other.

    Args:
        module: the block, with its original weights.
        hidden: its inputs in the full-precision model, one tensor for each batch; each is replaced by the block's
            output when the batch runs for the last time.
        call: runs the block on hidden states [samples, tokens, hidden]; `first` is the number of their first sample.
        at_once: samples of a batch that run at one time.
        originals: original weights of layers that are quantized already, by name; None for none.
    """

    def __init__(
        self,
        module: nn.Module,
        hidden: list[torch.Tensor],
        call: Callable[..., torch.Tensor],
        at_once: int,
        originals: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self._module = module
        self._hidden = hidden
        self._call = call
        self._at_once = at_once
        # Name of a quantized layer -> its original weight.
        self._originals: dict[str, nn.Parameter] = {**(originals or {})}

    def keep(self, layer: str) -> None:
        """Remember the weight of a layer before it is replaced, for further runs of the block."""
        weight = self._module.get_submodule(layer).weight
        assert isinstance(weight, nn.Parameter)
        self._originals[layer] = weight

    def see(self, batch: int, corrections: Corrections, *, to_end: bool) -> dict[Group, torch.Tensor]:
        """Run a batch up to what corrects the groups that are quantized next, and return it by group.

        Args:
            batch: its number.
            corrections: what corrects these groups, in the order in which they run.
            to_end: whether this is the last run of the batch through this block.
        """
        names = {group: group[0] if add is None else add.after for group, add in corrections.items()}
        modules = [name for name in names.values() if name]
        hidden = self._hidden[batch]
        first = sum(map(len, self._hidden[:batch]))
        whole: dict[str, torch.Tensor] = {}
        # By name: rows that are filled. Parts are copied at once, so that no freed memory is left between them.
        filled: Counter[str] = Counter()

        def note(name: str, x: torch.Tensor) -> None:
            if name not in whole:
                whole[name] = x.new_empty(len(x) // size * len(hidden), *x.shape[1:])
            whole[name][filled[name] : filled[name] + len(x)] = x
            filled[name] += len(x)

        size = min(self._at_once, len(hidden))
        with self._original_weights():
            for start in range(0, len(hidden), size):
                call = partial(self._call, hidden[start : start + size], first=first + start)
                # An empty name stands for the block's output.
                if to_end or "" in names.values():
                    note("", run_once(self._module, modules, call, note))
                elif modules:
                    collect(self._module, modules, [call], note)
        if to_end:
            self._hidden[batch] = whole[""].to(hidden.device)
        return {group: whole[name] for group, name in names.items()}

    def pass_through(self) -> None:
        """Run all batches to the end of a block of which nothing is to be seen."""
        for batch in range(len(self._hidden)):
            self.see(batch, {}, to_end=True)

    @contextmanager
    def _original_weights(self) -> Iterator[None]:
        """Give the layers their original weights, for the time of a `with` block."""
        layers = {name: self._module.get_submodule(name) for name in self._originals}
        current = {name: layer.weight for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.weight = self._originals[name]
        try:
            yield
        finally:
            for name, layer in layers.items():
                layer.weight = current[name]
