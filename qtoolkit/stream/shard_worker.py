"""Do the tasks of a sharded job in one process: run shards of the samples through a block, and solve its layers.

Nothing is left in the process that another one lacks: any process may do any task, and a lost one costs its task alone.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import CurrentBlock, run_all, weight_of
from qtoolkit.stream.exact_stream import ExactStream
from qtoolkit.stream.groups import Group
from qtoolkit.stream.residuals import Corrections
from qtoolkit.stream.run import BlockGroups, check_block, groups_of, stages_of
from qtoolkit.stream.samples import Samples, first_inputs, samples_at_once, samples_of_a_part
from qtoolkit.stream.shards import Exchange, LayersByBlock, ShardedJob

TOKENS, WEIGHTS, KEPT = "tokens", "weights", "kept"


class DoneGroup(NamedTuple):
    """Name the layers within a block that are quantized, and where their tensors are kept."""

    layers: Group
    name: str


def inputs_name(index: int, shard: int) -> str:
    """Return the name of what a block gets of a shard."""
    return f"{inputs_prefix(index)}{shard:05}"


def inputs_prefix(index: int) -> str:
    """Return how the names begin of what a block gets of all shards."""
    return f"inputs-{index:05}-"


def exact_name(index: int, shard: int) -> str:
    """Return the name of what a block gets of a shard in the full-precision model, while others are quantized."""
    # Before the first block, nothing is quantized.
    return f"exact-{index:05}-{shard:05}" if index else inputs_name(index, shard)


def sums_name(group: int, shard: int) -> str:
    """Return the name of the sums of a shard for a group of the block."""
    return f"sums-{group:05}-{shard:05}"


class ShardWorker:
    """Hold a model of which one block is in memory.

    Args:
        job: what is done.

    Raises:
        QToolkitError: the model cannot be read.
    """

    def __init__(self, job: ShardedJob) -> None:
        self._job = job
        self._exchange = Exchange(job.folder)
        layers = LayersByBlock.read(job.folder)
        self._layers = [*layers.values()]
        quantized = [f"{block}.{layer}" for block, names in layers.items() for layer in names]
        self._streamed = StreamedModel(job.opens(), device=job.device, dtype=job.dtype, quantized=quantized)
        pairs = zip(self._streamed.blocks, self._layers, strict=True)
        self._widest = max(max(weight_of(block.get_submodule(name)).shape) for block, names in pairs for name in names)
        # By shard, or by the number of its samples where all of so many get the same arguments.
        self._samples: dict[int, Samples] = {}
        self._alike: dict[int, Samples] = {}
        self._open = ExitStack()
        self._index = -1
        self._module: nn.Module = nn.Identity()
        # Layers that are quantized -> their original weights.
        self._originals: dict[str, nn.Parameter] = {}

    def close(self) -> None:
        """Free the block."""
        self._index = -1
        self._originals.clear()
        self._open.close()

    def begin(self, *, shard: int) -> None:
        """Keep what the first block gets of a shard.

        Raises:
            UnsupportedModelError: blocks pass on more than hidden states, which nothing keeps.
        """
        samples = self._first(shard)
        if samples.arguments.has_state or samples.arguments.has_carried:
            raise UnsupportedModelError(
                f"{self._streamed.name} ({self._streamed.model.config.model_type}) passes more from block to block "
                "than hidden states, which shards do not keep: leave out shards"
            )
        self._exchange.write(inputs_name(0, shard), _numbered(samples.hidden))
        samples.hidden = []

    def look(self, *, index: int, traced: bool) -> BlockGroups | None:
        """Check the weights of a block, and return which of its layers share their inputs.

        Args:
            index: of the block.
            traced: whether that is known already; None is returned then.

        Raises:
            CheckpointError: a weight holds NaN or infinity.
        """
        module = self._enter(index, ())
        check_block(self._streamed, index, module)
        if traced:
            return None
        samples = first_inputs(self._streamed, self._tokens()[:1], 1)
        one = partial(samples.call, index, module, self._streamed.device, samples.one, first=0)
        return groups_of(module, self._layers[index], one, corrected=self._job.method.wants_exact)

    def sum_up(
        self,
        *,
        index: int,
        groups: Mapping[int, Group],
        corrections: Corrections,
        done: Sequence[DoneGroup],
        shard: int,
        to_end: bool,
    ) -> None:
        """Keep the sums of what groups of a block get of a shard.

        Args:
            index: of the block.
            groups: by number.
            corrections: what corrects them.
            done: groups that are quantized before these.
            shard: its number.
            to_end: whether the full-precision model runs through this block for the last time.
        """
        self._enter(index, done)
        block, samples = self._current(index, shard)
        accumulators = self._summed(block, samples, [*groups.values()], corrections, shard=shard, to_end=to_end)
        for number, group in groups.items():
            self._exchange.write(sums_name(number, shard), accumulators[group[0]].sums())
        if block.experts.kept:
            self._exchange.write(KEPT, block.experts.kept)
        if to_end and block.exact is not None:
            self._exchange.write(exact_name(index + 1, shard), _numbered(samples.exact))

    def _summed(
        self,
        block: CurrentBlock,
        samples: Samples,
        groups: Sequence[Group],
        corrections: Corrections,
        *,
        shard: int,
        to_end: bool,
    ) -> dict[str, Any]:
        """Run a shard through a block; return what sums up each group, by the name of its first layer."""
        block.corrections = corrections
        block.see_experts(groups)
        accumulators: dict[str, Any] = {group[0]: block.start(group) for group in groups}
        for number, call in enumerate(samples.calls(self._index, self._module, self._streamed.device)):
            batch = block.batch(number, groups, to_end=to_end)
            # The first batch of the first shard gives the tokens for experts that see few.
            with block.experts.noted() if shard == number == 0 else nullcontext():
                block.accumulate(call, groups, batch, accumulators)
        return accumulators

    def solve(self, *, index: int, number: int, group: Group, done: Sequence[DoneGroup], name: str) -> dict[str, Any]:
        """Quantize a group of a block, given the sums of all shards; return the facts, by full names of layers.

        Args:
            index: of the block.
            number: of the group.
            group: its layers.
            done: groups that are quantized before it.
            name: under which the tensors are kept.
        """
        self._enter(index, done)
        accumulator: Any = self._block(index).start(group)
        for shard in range(self._job.num_shards):
            accumulator.add_sums(self._exchange.read(sums_name(number, shard)))
        kept = self._exchange.read(KEPT) if self._exchange.has(KEPT) else {}
        tensors, facts = self._solved(index, group, accumulator, kept)
        self._exchange.write(name, tensors)
        return facts

    def _solved(
        self, index: int, group: Group, accumulator: Any, kept: Mapping[str, StoredTensor | torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Quantize a group in place; return its tensors and facts. `kept` are tokens that enter the experts."""
        block = self._block(index)
        block.see_experts([group])
        block.experts.kept = {key: value[...].to(self._job.device) for key, value in kept.items()}
        self._keep_originals(group)
        return block.solved(group, accumulator)

    def quantize_block(self, *, index: int, name: str) -> dict[str, Any]:
        """Quantize a whole block, given what it gets of all shards; return the facts, by full names of layers.

        What is summed up and solved is as in `sum_up` and `solve`, and so is the order of the shards.

        Args:
            index: of the block.
            name: under which the tensors are kept.

        Raises:
            CheckpointError: a weight holds NaN or infinity.
        """
        found = self.look(index=index, traced=False)
        assert found is not None
        groups, corrections = found
        tensors: dict[str, torch.Tensor] = {}
        facts: dict[str, Any] = {}
        for stage in stages_of(self._module, groups, self._job.method):
            own = {group: corrections[group] for group in stage if group in corrections}
            totals: dict[Group, Any] = {group: self._block(index).start(group) for group in stage}
            kept: dict[str, torch.Tensor] = {}
            for shard in range(self._job.num_shards):
                block, samples = self._current(index, shard)
                parts = self._summed(block, samples, stage, own, shard=shard, to_end=False)
                kept |= block.experts.kept
                for group, total in totals.items():
                    total.add_sums(parts.pop(group[0]).sums())
            for group in stage:
                made, told = self._solved(index, group, totals.pop(group), kept)
                tensors |= made
                facts |= told
        # In the order of the groups, whatever was solved together.
        order = [f"{self._streamed.block_names[index]}.{layer}" for group in groups for layer in group]
        by_layer = {key: key.rpartition(".")[0] for key in tensors}
        self._exchange.write(name, {key: tensors[key] for one in order for key in by_layer if by_layer[key] == one})
        return {layer: facts[layer] for layer in order}

    def advance(self, *, index: int, done: Sequence[DoneGroup], shard: int, exact: bool) -> None:
        """Keep what the block after this one gets of a shard.

        Args:
            index: of the block.
            done: all its groups.
            shard: its number.
            exact: whether what it gets in the full-precision model is to be kept as well.
        """
        self._enter(index, done)
        block, samples = self._current(index, shard)
        outputs = run_all(samples.calls(index, self._module, self._streamed.device), samples.waiting)
        self._exchange.write(inputs_name(index + 1, shard), _numbered(outputs))
        if exact and block.exact is not None:
            block.exact.pass_through()
            self._exchange.write(exact_name(index + 1, shard), _numbered(samples.exact))

    def _current(self, index: int, shard: int) -> tuple[CurrentBlock, Samples]:
        """Return the block that is in memory, and the samples of a shard with what it gets of them."""
        job, samples = self._job, self._samples_of(shard)
        samples.hidden = self._kept(inputs_name(index, shard))
        at_once, part = self._sizes(*job.shard(self._tokens(), shard).shape)
        exact = None
        if part is not None:
            # Where blocks know nothing of one another, each gets what it gets in the full-precision model.
            exact_of = exact_name if job.propagates else inputs_name
            samples.exact = self._kept(exact_of(index, shard))
            run = partial(samples.call, index, self._module, self._streamed.device, exact=True)
            exact = ExactStream(self._module, samples.exact, run, part, self._originals)
        name = self._streamed.block_names[index]
        weights = self._exchange.read(WEIGHTS) if self._exchange.has(WEIGHTS) else {}
        own = {
            layer: job.shard(value[...], shard).split(at_once)
            for layer, value in weights.items()
            if layer.startswith(f"{name}.")
        }
        return CurrentBlock(name, self._module, job.method, exact, own), samples

    def _enter(self, index: int, done: Sequence[DoneGroup]) -> nn.Module:
        """Bring a block into memory, with exactly these groups quantized."""
        if index != self._index:
            self.close()
            self._module = self._open.enter_context(self._streamed.block(index))
            self._index = index
        quantized = {layer for group in done for layer in group.layers}
        for layer in self._originals.keys() - quantized:
            self._module.get_submodule(layer).weight = self._originals.pop(layer)
        block = self._block(index)
        for group in done:
            if not self._originals.keys() >= set(group.layers):
                self._keep_originals(group.layers)
                block.restore(group.layers, self._exchange.read(group.name))
        return self._module

    def _block(self, index: int) -> CurrentBlock:
        """Return the block that is in memory, of which nothing is run."""
        return CurrentBlock(self._streamed.block_names[index], self._module, self._job.method, None, {})

    def _keep_originals(self, group: Group) -> None:
        for layer in group:
            weight = self._module.get_submodule(layer).weight
            assert isinstance(weight, nn.Parameter)
            self._originals[layer] = weight

    def _samples_of(self, shard: int) -> Samples:
        """Return how blocks are called with a shard."""
        size = len(self._job.shard(self._tokens(), shard))
        found = self._samples.get(shard) or self._alike.get(size)
        return found or self._first(shard)

    def _first(self, shard: int) -> Samples:
        """Run a shard up to the first block."""
        tokens = self._job.shard(self._tokens(), shard)
        samples = first_inputs(self._streamed, tokens, *self._sizes(*tokens.shape))
        if samples.arguments.has_own:
            self._samples[shard] = samples
        else:
            self._alike[len(tokens)] = samples
        return samples

    def _tokens(self) -> torch.Tensor:
        return self._exchange.read(TOKENS)["tokens"][...]

    def _kept(self, name: str) -> list[torch.Tensor]:
        """Return the batches that are kept under a name."""
        tensors = self._exchange.read(name)
        return [tensors[str(number)][...] for number in range(len(tensors))]

    def _sizes(self, count: int, length: int) -> tuple[int, int | None]:
        """Return how many samples of a shard run at one time; and of those of the full-precision model, if any do."""
        itemsize = self._streamed.dtype.itemsize
        part = samples_of_a_part(itemsize, self._widest, length) if self._job.method.wants_exact else None
        return samples_at_once(itemsize, self._widest, count, length), part


def _numbered(tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}
