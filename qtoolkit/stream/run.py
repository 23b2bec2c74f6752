"""Quantize all blocks of a model, one after the other: load it, run the samples, quantize, store, free it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.block_method import Accumulator, BlockMethod
from qtoolkit.stream.block_writer import block_writer, given
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import CurrentBlock, run_all, weight_of
from qtoolkit.stream.done_groups import DoneGroups
from qtoolkit.stream.exact_stream import ExactStream
from qtoolkit.stream.forward import Call, run_once
from qtoolkit.stream.groups import Group, is_indexed, trace, with_unseen, without_indices
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.loading import check_finite
from qtoolkit.stream.memory_setting import MemorySetting, with_less_memory
from qtoolkit.stream.residuals import Corrections, find_corrections
from qtoolkit.stream.samples import first_inputs, samples_at_once, samples_of_a_part

# Sums of experts that are made in one run of a block in shards.
_SUMS_BYTES = 2**31


def quantize_blocks(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    on_progress: OnProgress,
    token_weights: Mapping[str, torch.Tensor],
    *,
    states: str = "cpu",
) -> list[DoneBlock]:
    """Quantize all blocks; those that the journal holds already are only run.

    Where a GPU's memory runs out, the blocks that are left are done with less of it, which the journal notes.

    Args:
        streamed: the model.
        layers: for each block, the names within it of the layers to quantize.
        tokens: calibration samples int64 [num_samples, seq_len].
        method: quantizes each group of layers.
        journal: stores each block's result.
        on_progress: called for each layer, and for each block that was done before.
        token_weights: how much each token counts for a layer, by its full name, float32 [num_samples, seq_len]; layers
            without any count all tokens alike.
        states: the device on which hidden states wait from one block to the next: "cpu", or the GPU that has room.

    Returns:
        what was stored of each block; nothing where no block has a layer to quantize.

    Raises:
        CheckpointError: a weight holds NaN or infinity.
    """
    check_outside(streamed)
    if not any(layers):
        return []
    total = sum(map(len, layers))

    def tell(note: str) -> None:
        journal.noted.append(note)
        on_progress(ProgressEvent("quantize", 0, total, "layers", note))

    pairs = zip(streamed.blocks, layers, strict=True)
    widest = max(max(weight_of(block.get_submodule(name)).shape) for block, names in pairs for name in names)
    at_once = samples_at_once(streamed.dtype.itemsize, widest, *tokens.shape)
    part = samples_of_a_part(streamed.dtype.itemsize, widest, tokens.shape[1]) if method.wants_exact else None
    run = partial(_quantize_with, streamed, layers, tokens, method, journal, on_progress, token_weights, part=part)
    return with_less_memory(run, MemorySetting(states, at_once), tell)


def _quantize_with(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    on_progress: OnProgress,
    token_weights: Mapping[str, torch.Tensor],
    setting: MemorySetting,
    *,
    part: int | None,
) -> list[DoneBlock]:
    """Do what `quantize_blocks` does with one setting; `part` is how many samples run at one time in full precision."""
    samples = first_inputs(streamed, tokens, setting.at_once, part, states=setting.states)
    batch_weights = {name: weights.split(setting.at_once) for name, weights in token_weights.items()}
    total = sum(map(len, layers))
    done = 0

    def report(layer: str, count: int = 1) -> None:
        nonlocal done
        done += count
        on_progress(ProgressEvent("quantize", done, total, "layers", layer))

    if method.wants_exact:
        samples.exact = [*samples.hidden]
    results: list[Callable[[], DoneBlock]] = []
    # Names of layers -> their groups, and what corrects these.
    known: dict[tuple[str, ...], BlockGroups] = {}
    with block_writer(journal, behind=writes_behind(streamed.device)) as write:
        for index, names in enumerate(layers):
            name = streamed.block_names[index]
            empty = streamed.blocks[index]
            shapes = {f"{name}.{layer}": tuple(weight_of(empty.get_submodule(layer)).shape) for layer in names}
            before = journal.read(index, partial(method.fits, shapes))
            with streamed.block(index) as module:
                run = partial(samples.call, index, module, streamed.device)
                exact = None if part is None else ExactStream(module, samples.exact, partial(run, exact=True), part)
                calls = samples.calls(index, module, streamed.device)
                block = _Block(name, module, calls, samples.waiting, method, exact, batch_weights)
                if samples.arguments.has_state or samples.arguments.has_carried:
                    # Leave what later blocks need to be traced; before the batches, which may share it.
                    with torch.no_grad():
                        run(samples.one, first=0)
                if before is None:
                    check_block(streamed, index, module)
                    if tuple(names) not in known:
                        one = partial(run, samples.one, first=0)
                        known[tuple(names)] = groups_of(module, names, one, corrected=method.wants_exact)
                    groups, corrections = known[tuple(names)]
                    done_before = DoneGroups(journal, index, name, groups, partial(fit, method, shapes))
                    outputs = block.quantize(groups, corrections, done_before, report)
                    results.append(write(index, block.tensors, block.facts))
                else:
                    if exact is not None:
                        exact.pass_through()
                    block.restore(names, before.tensors)
                    report(f"{name} (done before)", len(names))
                    outputs = block.run()
                    results.append(given(before))
                samples.hidden = [samples.waiting(output) for output in outputs]
            samples.arguments.forget(index)
        return [result() for result in results]


class BlockGroups(NamedTuple):
    """Hold the groups of layers of a block, and what corrects each."""

    groups: tuple[Group, ...]
    corrections: Corrections


def groups_of(module: nn.Module, names: Sequence[str], call: Call, *, corrected: bool) -> BlockGroups:
    """Return which layers of a block share their inputs, and what corrects them where that is wanted."""
    groups = with_unseen(trace(module, names, call), names)
    return BlockGroups(groups, find_corrections(module, groups, call) if corrected and names else {})


class _Block(CurrentBlock):
    """Quantize one block while it is in memory, group after group.

    Args:
        name, module, method, exact: as for `CurrentBlock`.
        calls: each runs the block on one batch of samples.
        waiting: puts the output of a batch where it waits for the next block.
        batch_weights: by full names of layers, the weights of the tokens of each batch, [samples, tokens].

    Attributes:
        tensors: of the quantized layers, by full names; in files where the block has experts.
        facts: of the same layers.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        calls: list[Call],
        waiting: Callable[[torch.Tensor], torch.Tensor],
        method: BlockMethod,
        exact: ExactStream | None,
        batch_weights: Mapping[str, Sequence[torch.Tensor]],
    ) -> None:
        super().__init__(name, module, method, exact, batch_weights)
        self.calls = calls
        self._waiting = waiting
        self.tensors: dict[str, StoredTensor | torch.Tensor] = {}
        self.facts: dict[str, Any] = {}

    def run(self) -> list[torch.Tensor]:
        """Return the block's output for each batch of samples, with its current weights."""
        return run_all(self.calls, self._waiting)

    def quantize(
        self, groups: Sequence[Group], corrections: Corrections, done: DoneGroups, report: Callable[[str], None]
    ) -> list[torch.Tensor]:
        """Quantize the layers group by group; return the outputs of the quantized block.

        Args:
            groups: of layers with the same inputs, in the order in which they run.
            corrections: what corrects each group; empty without a second stream.
            done: groups that an earlier call has quantized, which are only put in place.
            report: called with the name of each quantized layer.
        """
        self.corrections = corrections
        self._done = done
        self.see_experts(groups)
        if self.method.true_sequential and len(self.calls) == 1:
            return [self._quantize_once(groups, report)]
        parts = [[group] for group in groups] if self.method.true_sequential else [list(groups)]
        for number, together in enumerate(parts, start=1):
            left = [group for group in together if done.of(group) is None]
            accumulators = {group[0]: self.start(group) for group in left}
            for index, call in enumerate(self.calls if left else []):
                batch = self.batch(index, left, to_end=number == len(parts))
                with self.experts.noted():
                    self.accumulate(call, left, batch, accumulators)
            for group in together:
                self._finish(group, accumulators.pop(group[0], None), report, runs_again=number < len(parts))
        if not parts and self.exact is not None:
            self.exact.pass_through()
        return self.run()

    def _quantize_once(self, groups: Sequence[Group], report: Callable[[str], None]) -> torch.Tensor:
        """Quantize each group when it is reached in the one forward of a single batch; return the block's output."""
        batch = self.batch(0, [group for group in groups if self._done.of(group) is None], to_end=True)
        pending = {group[0]: group for group in groups}

        def quantize_group(name: str, x: torch.Tensor) -> None:
            batch.note(name, x)
            # A layer may be called again; it is quantized at the first call.
            group = pending.pop(name, None)
            if group is not None:
                accumulator = None
                if self._done.of(group) is None:
                    accumulator = self.start(group)
                    accumulator.add(batch.inputs(group, x))
                self._finish(group, accumulator, report)

        with self.experts.noted():
            output = run_once(self.module, [*batch.residual_modules, *pending], self.calls[0], quantize_group)
        for group in pending.values():
            self._finish(group, self.start(group) if self._done.of(group) is None else None, report)
        return output

    def _finish(
        self,
        group: Group,
        accumulator: Accumulator | None,
        report: Callable[[str], None],
        *,
        runs_again: bool = False,
    ) -> None:
        """Quantize a group, or put it in place.

        Args:
            group: of layers with the same inputs.
            accumulator: of its inputs; None for a group that was done before.
            report: called with the name of each layer.
            runs_again: whether the full-precision model runs through this block once more.
        """
        if runs_again and self.exact is not None:
            for layer in group:
                self.exact.keep(layer)
        done = self._done.of(group)
        if done is not None:
            self.restore(group, done.tensors)
            self.tensors |= done.tensors
            self.facts |= done.facts
        else:
            assert accumulator is not None
            self._solve(group, accumulator)
        for layer in group:
            report(f"{self.name}.{layer}")

    def _solve(self, group: Group, accumulator: Accumulator) -> None:
        """Quantize a group, and store it where the block has experts."""
        tensors, facts = self.solved(group, accumulator)
        self.tensors |= self._done.keep(tensors, facts)
        self.facts |= facts


def fit(
    method: BlockMethod,
    shapes: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
    tensors: Mapping[str, StoredTensor | torch.Tensor],
    facts: Mapping[str, Any],
) -> bool:
    """Return what `BlockMethod.fits` does for some of the layers of a block, whose `shapes` are given."""
    return method.fits({name: shapes[name] for name in names}, tensors, facts)


def writes_behind(device: str) -> bool:
    """Check whether finished blocks are written while the next one runs: where a processor is free for that."""
    return device != "cpu"


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


def stages_of(block: nn.Module, groups: Sequence[Group], method: BlockMethod) -> list[list[Group]]:
    """Return which groups are solved together: layers of different experts do not see one another.

    Args:
        block: holds the layers.
        groups: in the order in which they run.
        method: quantizes them.
    """
    if not method.true_sequential:
        return [list(groups)] if groups else []
    alike: dict[str, list[Group]] = {}
    for group in groups:
        alike.setdefault(without_indices(group[0]), []).append(group)
    stages: list[list[Group]] = []
    for together in alike.values():
        width = weight_of(block.get_submodule(together[0][0])).shape[1]
        most = max(1, _SUMS_BYTES // (4 * width**2)) if is_indexed(together[0][0]) else 1
        stages.extend(together[start : start + most] for start in range(0, len(together), most))
    return stages
