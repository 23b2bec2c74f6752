"""Quantize all blocks of a model each for itself, from what the full-precision model gives it: one task a block."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.block_method import BlockMethod
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.run import check_outside, fit
from qtoolkit.stream.shard_worker import ShardWorker, inputs_prefix
from qtoolkit.stream.sharded_run import GivenOut, begun
from qtoolkit.stream.shards import Workers


def quantize_each_block(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    on_progress: OnProgress,
    token_weights: Mapping[str, torch.Tensor],
    *,
    num_shards: int,
    workers: Workers,
) -> list[DoneBlock]:
    """Quantize all blocks as `sharded_run.quantize_in_shards` does, but with inputs of the full-precision model.

    The samples first run through the model as it is, and what each block gets is kept: of one block at a time where
    one process does all, otherwise of all blocks, which are then quantized at one time.

    Args:
        streamed, layers, tokens, method, journal, on_progress, token_weights: as for `quantize_in_shards`.
        num_shards, workers: as for it; the result depends on the shards, and not on the workers.

    Returns:
        what was stored of each block; nothing where no block has a layer to quantize.

    Raises:
        QToolkitError: a task failed; blocks that are done are kept.
    """
    check_outside(streamed)
    if not any(layers):
        return []
    job_of = partial(begun, streamed, layers, tokens, method, journal, token_weights)
    with job_of(num_shards=num_shards, workers=workers, propagates=False) as (job, tasks):
        return _Run(streamed, layers, job, journal, on_progress, tasks).blocks(workers.is_parallel)


class _Run(GivenOut):
    """Give out the tasks of a job, a block each."""

    def blocks(self, is_parallel: bool) -> list[DoneBlock]:
        """Quantize the blocks that the journal lacks: one after the other, or all of them at one time."""
        self._results: dict[int, DoneBlock] = {}
        count = len(self._layers)
        for index in range(count):
            found = self._journal.read(index, self._fits(index))
            if found is not None:
                self._results[index] = found
        missing = [index for index in range(count) if index not in self._results]
        self._report()
        if missing:
            self._of_each_shard(partial(ShardWorker.begin), self._report)
        # What blocks get is kept up to the last one that is missing.
        end = max(missing, default=-1) + 1
        at_once = count if is_parallel else 1
        for start in range(0, end, at_once):
            together = range(start, min(start + at_once, end))
            for index in together:
                if index + 1 < end:
                    self._of_each_shard(partial(ShardWorker.advance, index=index, done=(), exact=False), self._report)
            self._quantize([index for index in together if index in missing])
            for index in together:
                self._exchange.remove(inputs_prefix(index))
        return [self._results[index] for index in range(count)]

    def _quantize(self, blocks: Sequence[int]) -> None:
        """Quantize blocks whose inputs are kept."""
        tasks = [partial(ShardWorker.quantize_block, index=index, name=_codes_name(index)) for index in blocks]
        for number, facts in self._tasks.run(tasks, self._report):
            index = blocks[number]
            stored = self._exchange.read(_codes_name(index))
            self._results[index] = self._journal.write(index, {key: value[...] for key, value in stored.items()}, facts)
            self._exchange.remove(_codes_name(index))
            self._report(self._streamed.block_names[index])

    def _fits(self, index: int) -> Callable[..., bool]:
        """Return what tells whether tensors and facts are those of a block."""
        shapes = self._shapes(index)
        return partial(fit, self._job.method, shapes, [*shapes])

    def _report(self, what: str = "") -> None:
        done = sum(len(self._layers[index]) for index in self._results)
        self._on_progress(ProgressEvent("quantize", done, sum(map(len, self._layers)), "layers", what))


def _codes_name(index: int) -> str:
    return f"codes-{index:05}"
