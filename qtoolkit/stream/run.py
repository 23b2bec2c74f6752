"""Quantize all blocks of a model, one after the other: load it, run the samples, quantize, store, free it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.exact_stream import Batch, ExactStream
from qtoolkit.stream.expert_inputs import ExpertInputs
from qtoolkit.stream.forward import Call, collect, run_once
from qtoolkit.stream.groups import Group, GroupInputs, is_indexed, trace, with_unseen
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.loading import check_finite
from qtoolkit.stream.residuals import Corrections, find_corrections
from qtoolkit.stream.samples import first_inputs, samples_at_once, samples_of_a_part


class Accumulator(Protocol):
    """Collect the inputs of layers that share them, then quantize these layers.

    Attributes:
        wants_more: whether there are so few inputs that those of other experts help, where the layers are an expert's.
    """

    @property
    def wants_more(self) -> bool:
        """See the class."""

    def lean_on(self, inputs: torch.Tensor) -> None:
        """Take inputs [tokens, in] of other experts' tokens into account, beside the layers' own."""

    def add(self, batch: GroupInputs) -> None:
        """Add a batch of inputs."""

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
        wants_exact: whether accumulators get what the full-precision model has at the same tokens, by a second stream.
    """

    true_sequential: bool
    wants_exact: bool

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

    Returns:
        what was stored of each block; nothing where no block has a layer to quantize.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
    """
    check_outside(streamed)
    if not any(layers):
        return []
    pairs = zip(streamed.blocks, layers, strict=True)
    widest = max(max(weight_of(block.get_submodule(name)).shape) for block, names in pairs for name in names)
    at_once = samples_at_once(streamed.dtype.itemsize, widest, *tokens.shape)
    part = samples_of_a_part(streamed.dtype.itemsize, widest, tokens.shape[1]) if method.wants_exact else None
    samples = first_inputs(streamed, tokens, at_once, part)
    batch_weights = {name: weights.split(at_once) for name, weights in token_weights.items()}
    total = sum(map(len, layers))
    done = 0

    def report(layer: str, count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent("quantize", done, total, "layers", layer))

    if method.wants_exact:
        samples.exact = [*samples.hidden]
    results = []
    # Names of layers -> their groups, and what corrects these.
    known: dict[tuple[str, ...], tuple[tuple[Group, ...], Corrections]] = {}
    for index, names in enumerate(layers):
        name = streamed.block_names[index]
        empty = streamed.blocks[index]
        shapes = {f"{name}.{layer}": tuple(weight_of(empty.get_submodule(layer)).shape) for layer in names}
        result = journal.read(index, partial(method.fits, shapes))
        with streamed.block(index) as module:
            run = partial(samples.call, index, module, streamed.device)
            exact = None if part is None else ExactStream(module, samples.exact, partial(run, exact=True), part)
            calls = samples.calls(index, module, streamed.device)
            block = _Block(name, module, calls, method, exact, batch_weights)
            if samples.arguments.has_state:
                # Leave what later blocks need to be traced; before the batches, which may share it.
                with torch.no_grad():
                    run(samples.one, first=0)
            if result is None:
                check_block(streamed, index, module)
                if tuple(names) not in known:
                    one = partial(run, samples.one, first=0)
                    groups = with_unseen(trace(module, names, one), names)
                    wanted = method.wants_exact and names
                    known[tuple(names)] = groups, find_corrections(module, groups, one) if wanted else {}
                outputs = block.quantize(*known[tuple(names)], report)
                result = journal.write(index, block.tensors, block.facts)
            else:
                if exact is not None:
                    exact.pass_through()
                block.restore(names, result.tensors)
                report(f"{name} (done before)", len(names))
                outputs = block.run()
            samples.hidden = [output.to("cpu") for output in outputs]
        samples.arguments.forget(index)
        results.append(result)
    return results


class _Block:
    """Quantize one block while it is in memory.

    Args:
        name: the block's full name.
        module: the block.
        calls: each runs the block on one batch of samples.
        method: quantizes each group of layers.
        exact: runs it as the full-precision model does; None without a second stream.
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
        exact: ExactStream | None,
        batch_weights: Mapping[str, Sequence[torch.Tensor]],
    ) -> None:
        self.name = name
        self.module = module
        self.calls = calls
        self.method = method
        self._batch_weights = batch_weights
        self.tensors: dict[str, torch.Tensor] = {}
        self.facts: dict[str, Any] = {}
        self._exact = exact
        self._corrections: Corrections = {}
        self._experts = ExpertInputs(module, [])

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

    def quantize(
        self, groups: Sequence[Group], corrections: Corrections, report: Callable[[str], None]
    ) -> list[torch.Tensor]:
        """Quantize the layers group by group; return the outputs of the quantized block.

        Args:
            groups: of layers with the same inputs, in the order in which they run.
            corrections: what corrects each group; empty without a second stream.
            report: called with the name of each quantized layer.
        """
        self._corrections = corrections
        self._experts = ExpertInputs(self.module, [layer for group in groups for layer in group])
        if self.method.true_sequential and len(self.calls) == 1:
            return [self._quantize_once(groups, report)]
        parts = [[group] for group in groups] if self.method.true_sequential else [list(groups)]
        for number, together in enumerate(parts, start=1):
            accumulators = {group[0]: self._start(group) for group in together}
            for index, call in enumerate(self.calls):
                batch = self._batch(index, together, to_end=number == len(parts))
                with self._experts.noted():
                    self._accumulate(call, together, batch, accumulators)
            for group in together:
                self._finish(group, accumulators.pop(group[0]), report, runs_again=number < len(parts))
        if not parts and self._exact is not None:
            self._exact.pass_through()
        return self.run()

    def _batch(self, index: int, groups: Sequence[Group], *, to_end: bool) -> Batch:
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
        if self._exact is None:
            return Batch(self.module, {}, {}, weights)
        corrections = {group: self._corrections[group] for group in groups if group in self._corrections}
        exact = self._exact.see(index, corrections, to_end=to_end)
        return Batch(self.module, corrections, exact, weights)

    def _accumulate(
        self, call: Call, groups: Sequence[Group], batch: Batch, accumulators: Mapping[str, Accumulator]
    ) -> None:
        """Run a batch, and add what groups get to their accumulators, by the name of each group's first layer."""
        by_first = {group[0]: group for group in groups}

        def note(name: str, x: torch.Tensor) -> None:
            batch.note(name, x)
            if name in by_first:
                accumulators[name].add(batch.inputs(by_first[name], x))

        collect(self.module, [*batch.residual_modules, *by_first], [call], note)

    def _quantize_once(self, groups: Sequence[Group], report: Callable[[str], None]) -> torch.Tensor:
        """Quantize each group when it is reached in the one forward of a single batch; return the block's output."""
        batch = self._batch(0, groups, to_end=True)
        pending = {group[0]: group for group in groups}

        def quantize_group(name: str, x: torch.Tensor) -> None:
            batch.note(name, x)
            # A layer may be called again; it is quantized at the first call.
            group = pending.pop(name, None)
            if group is not None:
                accumulator = self._start(group)
                accumulator.add(batch.inputs(group, x))
                self._finish(group, accumulator, report)

        with self._experts.noted():
            output = run_once(self.module, [*batch.residual_modules, *pending], self.calls[0], quantize_group)
        for group in pending.values():
            self._finish(group, self._start(group), report)
        return output

    def _start(self, group: Group) -> Accumulator:
        full = [f"{self.name}.{layer}" for layer in group]
        return self.method.start(full, weight_of(self.module.get_submodule(group[0])).shape[1])

    def _finish(
        self, group: Group, accumulator: Accumulator, report: Callable[[str], None], *, runs_again: bool = False
    ) -> None:
        """Quantize a group; `runs_again` if the full-precision model runs through this block once more."""
        if is_indexed(group[0]) and accumulator.wants_more:
            inputs = self._experts.of(group[0])
            if inputs is not None:
                accumulator.lean_on(inputs)
        weights = {layer: weight_of(self.module.get_submodule(layer)) for layer in group}
        for layer, (tensors, facts) in accumulator.finish(weights).items():
            if runs_again and self._exact is not None:
                self._exact.keep(layer)
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
