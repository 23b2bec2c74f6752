"""A job on all blocks of a model: each is read, run on the samples, quantized, kept, and forgotten."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import nn

from qtoolkit.errors import CheckpointError
from qtoolkit.records import ProgressEvent
from qtoolkit.source import StoredTensor
from qtoolkit.source.opening import OnProgress
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.forward import MAX_HELD_BYTES, PausedForwards, RepeatedForwards, collect, trace
from qtoolkit.stream.journal import DoneBlock, Journal

# A number that stands alone in a name: an expert's place, not the 1 of "w1".
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# What the widest activations of a block may take for the samples that run through it at one time.
_BATCH_BYTES = 2**25


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


@dataclass
class _Samples:
    """Hidden states of all samples in batches, and what else each block is called with."""

    hidden: list[torch.Tensor]
    # Block -> batch size -> arguments beside the hidden states.
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]]

    def calls(self, index: int, block: nn.Module, device: str) -> list[Callable[[], torch.Tensor]]:
        return [partial(self._call, index, block, device, place) for place in range(len(self.hidden))]

    def _call(self, index: int, block: nn.Module, device: str, place: int) -> torch.Tensor:
        hidden = self.hidden[place]
        args, kwargs = self.arguments[index][len(hidden)]
        output = block(hidden.to(device), *args, **kwargs)
        tensor: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return tensor


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
    """
    samples = _first_inputs(streamed, tokens, _samples_at_once(streamed, layers, tokens.shape[1]))
    total, done = sum(map(len, layers)), 0

    def report(layer: str, count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent("quantize", done, total, "layers", layer))

    results = []
    groups: dict[tuple[str, ...], Groups] = {}
    for index, names in enumerate(layers):
        name = streamed.block_names[index]
        with (
            streamed.block(index) as module,
            _Block(name, module, samples.calls(index, module, streamed.device), method) as block,
        ):
            result = journal.read(index)
            if result is not None:
                block.restore(names, result.tensors)
                report(f"{name} (done before)", len(names))
            else:
                if tuple(names) not in groups:
                    groups[tuple(names)] = block.find_groups(names)
                tensors, facts = block.quantize(groups[tuple(names)], report)
                result = journal.write(index, tensors, facts)
            samples.hidden = [output.to("cpu") for output in block.outputs()]
        samples.arguments[index] = {}
        results.append(result)
    return results


Group = tuple[str, ...]


class Groups(NamedTuple):
    """Layers of a block that share their inputs, in the order in which they run, and what a paused sample holds."""

    names: tuple[Group, ...]
    held_bytes: int


class _Block:
    """One block while it is in memory."""

    def __init__(
        self, name: str, module: nn.Module, calls: list[Callable[[], torch.Tensor]], method: BlockMethod
    ) -> None:
        self.name, self.module, self.calls, self.method = name, module, calls, method
        self._forwards: PausedForwards | RepeatedForwards | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._forwards is not None:
            self._forwards.close()

    def restore(self, names: Sequence[str], tensors: Mapping[str, StoredTensor | torch.Tensor]) -> None:
        """Put the weights in place that were quantized before."""
        for layer in names:
            prefix = f"{self.name}.{layer}."
            own = {key.removeprefix(prefix): value[...] for key, value in tensors.items() if key.startswith(prefix)}
            self._set_weight(layer, own)

    def find_groups(self, names: Sequence[str]) -> Groups:
        """Which layers share their inputs, in the order in which they run."""
        seen = trace(self.module, names, self.calls[0])
        return Groups(with_unseen(seen.groups, names), seen.held_bytes)

    def quantize(self, groups: Groups, report: Callable[[str], None]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and facts of all layers, by full names; the block has their values afterwards."""
        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}

        def finish(group: Group, accumulator: Accumulator) -> None:
            weights = {layer: self._finite_weight(layer) for layer in group}
            for layer, (own, known) in accumulator.finish(weights).items():
                self._set_weight(layer, own)
                tensors.update({f"{self.name}.{layer}.{key}": value for key, value in own.items()})
                facts[f"{self.name}.{layer}"] = known
                report(f"{self.name}.{layer}")

        stops = [group[0] for group in groups.names]
        if not self.method.true_sequential:
            accumulators = {group[0]: self._start(group) for group in groups.names}
            collect(self.module, stops, self.calls, lambda name, x: accumulators[name].add(x))
            for group in groups.names:
                finish(group, accumulators.pop(group[0]))
            return tensors, facts
        held = groups.held_bytes * len(self.calls)
        kind = PausedForwards if held <= MAX_HELD_BYTES else RepeatedForwards
        self._forwards = kind(self.module, stops, self.calls)
        for group in groups.names:
            accumulator = self._start(group)
            for inputs in self._forwards.inputs(group[0]):
                accumulator.add(inputs)
            finish(group, accumulator)
        return tensors, facts

    def outputs(self) -> Iterator[torch.Tensor]:
        """What the block makes of each sample, with the values that it has now."""
        forwards = self._forwards or RepeatedForwards(self.module, (), self.calls)
        return forwards.outputs()

    def _start(self, group: Group) -> Accumulator:
        full = [f"{self.name}.{layer}" for layer in group]
        return self.method.start(full, _weight(self.module.get_submodule(group[0])).shape[1])

    def _finite_weight(self, layer: str) -> torch.Tensor:
        weight = _weight(self.module.get_submodule(layer))
        low, high = torch.aminmax(weight)
        if not (low.isfinite() and high.isfinite()):
            name = f"{self.name}.{layer}"
            raise CheckpointError(f"{name} holds NaN or infinity, so it cannot be quantized: get the model again")
        return weight

    def _set_weight(self, layer: str, tensors: Mapping[str, torch.Tensor]) -> None:
        linear: Any = self.module.get_submodule(layer)
        old = linear.weight
        weight = self.method.dequantize(tensors).to(old.device, old.dtype)
        # Another tensor, since the old one may be that of a model that somebody has loaded.
        full = weight if isinstance(linear, nn.Linear) else weight.T
        linear.weight = nn.Parameter(full.contiguous(), requires_grad=False)


def _weight(linear: Any) -> torch.Tensor:
    """A linear layer's weight as W[out, in]; GPT-2's Conv1D keeps it transposed."""
    weight: torch.Tensor = linear.weight.detach()
    return weight if isinstance(linear, nn.Linear) else weight.T


def with_unseen(groups: Sequence[Group], names: Sequence[str]) -> tuple[Group, ...]:
    """Groups that one sample showed, with those of experts that it did not reach, in the order in which they run.

    An expert that was not reached is as one that was: its names differ in a number.

    Example: the router sent nothing to expert 0.

        >>> with_unseen([("q",), ("e.1.up", "e.1.gate"), ("e.1.down",)], ["q", "e.0.up", "e.0.gate", "e.0.down"])
        (('q',), ('e.0.up', 'e.0.gate'), ('e.0.down',))
    """
    patterns = {
        _NUMBER.sub("*", name): (place, within)
        for place, group in enumerate(groups)
        for within, name in enumerate(group)
    }
    first: dict[str, int] = {}
    for place, group in enumerate(groups):
        first.setdefault(_NUMBER.split(group[0])[0], place)
    found: dict[tuple[int, tuple[int, ...], int], dict[int, str]] = {}
    for name in names:
        pattern, numbers = _NUMBER.sub("*", name), tuple(map(int, _NUMBER.findall(name)))
        # A layer like no other that never ran comes last, alone.
        place, within = patterns.get(pattern, (len(groups) + len(found), 0))
        start = first.get(_NUMBER.split(name)[0], place) if numbers else place
        found.setdefault((start, numbers, place), {})[within] = name
    return tuple(tuple(group[within] for within in sorted(group)) for _, group in sorted(found.items()))


def _samples_at_once(streamed: StreamedModel, layers: Sequence[Sequence[str]], seq_len: int) -> int:
    """How many samples run through a block at one time."""
    pairs = zip(streamed.blocks, layers, strict=True)
    widest = max(max(_weight(block.get_submodule(name)).shape) for block, names in pairs for name in names)
    return max(1, _BATCH_BYTES // (widest * streamed.dtype.itemsize * seq_len))


def _first_inputs(streamed: StreamedModel, tokens: torch.Tensor, samples_at_once: int) -> _Samples:
    """What the first block is given for each sample, and what every block is called with."""
    batches = tokens.split(samples_at_once)
    samples = _Samples([], [{} for _ in streamed.blocks])
    with streamed.outside() as model, torch.inference_mode():
        for batch in batches:
            known = len(batch) in samples.arguments[0]
            hidden = _watch(model.base_model, streamed, batch, samples, all_blocks=not known)
            samples.hidden.append(hidden.to("cpu"))
    return samples


def _watch(
    base_model: nn.Module, streamed: StreamedModel, batch: torch.Tensor, samples: _Samples, *, all_blocks: bool
) -> torch.Tensor:
    """Run a model without its blocks, and note what each would have been called with; give what the first was given.

    Some architectures expect a tuple of a block and some a tensor, which shows in what the second block is given.
    """
    first: list[torch.Tensor] = []
    for as_tuple in (False, True):
        first.clear()
        stand_in = partial(_stand_in, first, samples.arguments, as_tuple, all_blocks)
        for index, block in enumerate(streamed.blocks):
            block.forward = partial(stand_in, index)
        try:
            with suppress(_LeftEarly):
                base_model(input_ids=batch.to(streamed.device), use_cache=False)
                break
        finally:
            for block in streamed.blocks:
                del block.forward
        if not all_blocks:
            break
    return first[0]


def _stand_in(
    first: list[torch.Tensor],
    arguments: list[dict[int, tuple[tuple[Any, ...], dict[str, Any]]]],
    as_tuple: bool,
    all_blocks: bool,
    index: int,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Take the place of block `index`'s forward."""
    hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
    if index == 0:
        first.append(hidden)
    elif hidden is not first[0]:
        raise _LeftEarly
    arguments[index][len(first[0])] = rest, kwargs
    if not all_blocks:
        raise _LeftEarly
    return (hidden,) if as_tuple else hidden


class _LeftEarly(Exception):
    """Thrown to leave a model once enough was seen, or when its blocks should give something else."""
