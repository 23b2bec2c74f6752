"""Quantize all blocks of a model with samples in shards: what comes out depends on the shards, not on who does them."""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.records import OnProgress, ProgressEvent
from qtoolkit.stream.block_method import BlockMethod
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.current_block import weight_of
from qtoolkit.stream.done_groups import DoneGroups
from qtoolkit.stream.groups import Group
from qtoolkit.stream.journal import DoneBlock, Journal
from qtoolkit.stream.run import BlockGroups, check_outside, fit, stages_of
from qtoolkit.stream.shard_worker import KEPT, TOKENS, WEIGHTS, DoneGroup, ShardWorker, inputs_prefix
from qtoolkit.stream.shards import Exchange, LayersByBlock, ShardedJob, Task, Tasks, Workers


class ThisProcess:
    """Do all tasks in this process, one after the other; implements `Workers`.

    Args:
        checkpoint: the model in full precision.
    """

    is_parallel = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def opens(self) -> Checkpoint:
        """Return the model."""
        return self._checkpoint

    def tasks(self, job: ShardedJob) -> "_TasksHere":
        """See `Workers`."""
        return _TasksHere(ShardWorker(job))


class _TasksHere:
    """Do tasks in this process; implements `Tasks`."""

    def __init__(self, worker: ShardWorker) -> None:
        self._worker = worker

    def run(self, tasks: Sequence[Task], on_wait: Callable[[], None]) -> Iterator[tuple[int, Any]]:
        """See `Tasks`."""
        for number, task in enumerate(tasks):
            on_wait()
            yield number, task(self._worker)

    def close(self) -> None:
        """See `Tasks`."""
        self._worker.close()


def quantize_in_shards(
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
    """Quantize all blocks as `run.quantize_blocks` does, with sums over shards that are added in their order.

    Args:
        streamed: the model, of which no block is loaded.
        layers, tokens, journal, on_progress, token_weights: as for `quantize_blocks`.
        method: quantizes each group of layers; it can be pickled where workers are other processes.
        num_shards: parts of the samples.
        workers: do the work; nothing depends on how many they are.

    Returns:
        what was stored of each block; nothing where no block has a layer to quantize.

    Raises:
        QToolkitError: a task failed; blocks that are done are kept.
    """
    check_outside(streamed)
    if not any(layers):
        return []
    job_of = partial(begun, streamed, layers, tokens, method, journal, token_weights)
    with job_of(num_shards=num_shards, workers=workers, propagates=True) as (job, tasks):
        return _Run(streamed, layers, job, journal, on_progress, tasks).blocks()


@contextmanager
def begun(
    streamed: StreamedModel,
    layers: Sequence[Sequence[str]],
    tokens: torch.Tensor,
    method: BlockMethod,
    journal: Journal,
    token_weights: Mapping[str, torch.Tensor],
    *,
    num_shards: int,
    workers: Workers,
    propagates: bool,
) -> Iterator[tuple[ShardedJob, Tasks]]:
    """Begin a job: keep what its tasks read in a folder, for the time of a `with` block; yield it and its tasks.

    Args:
        streamed, layers, tokens, method, journal, token_weights, num_shards, workers: as for `quantize_in_shards`.
        propagates: whether blocks see what quantized blocks before them make.
    """
    with _folder_of(journal) as folder:
        job = ShardedJob(
            opens=workers.opens,
            method=method,
            device=streamed.device,
            dtype=streamed.dtype,
            num_shards=num_shards,
            folder=folder,
            key=secrets.token_hex(8),
            propagates=propagates,
        )
        LayersByBlock.write(folder, dict(zip(streamed.block_names, map(tuple, layers), strict=True)))
        exchange = Exchange(folder)
        exchange.write(TOKENS, {"tokens": tokens})
        if token_weights:
            exchange.write(WEIGHTS, dict(token_weights))
        with closing(workers.tasks(job)) as tasks:
            yield job, tasks


@contextmanager
def _folder_of(journal: Journal) -> Iterator[Path]:
    """Make the folder in which tasks leave tensors for one another, for the time of a `with` block.

    It is beside the journal, where workers see it, and on a disk with room for a model.
    """
    beside = None if journal.folder is None else journal.folder.parent
    with tempfile.TemporaryDirectory(prefix="shards-", dir=beside, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


class GivenOut:
    """Hold a job whose tasks are given out.

    Args:
        streamed, layers, journal, on_progress: as for `quantize_in_shards`.
        job: what is done.
        tasks: does the work.
    """

    def __init__(
        self,
        streamed: StreamedModel,
        layers: Sequence[Sequence[str]],
        job: ShardedJob,
        journal: Journal,
        on_progress: OnProgress,
        tasks: Tasks,
    ) -> None:
        self._streamed = streamed
        self._layers = tuple(map(tuple, layers))
        self._job = job
        self._journal = journal
        self._on_progress = on_progress
        self._tasks = tasks
        self._exchange = Exchange(job.folder)

    def _shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """Return [outputs, inputs] of the layers of a block, by their full names."""
        block, module = self._streamed.block_names[index], self._streamed.blocks[index]
        return {f"{block}.{name}": tuple(weight_of(module.get_submodule(name)).shape) for name in self._layers[index]}

    def _of_each_shard(self, task: Task, on_wait: Callable[[], None]) -> None:
        """Do a task of which nothing is returned with each shard."""
        for _ in self._tasks.run([partial(task, shard=shard) for shard in range(self._job.num_shards)], on_wait):
            pass


class _Run(GivenOut):
    """Give out the tasks of a job, block after block."""

    _num_done = 0

    def blocks(self) -> list[DoneBlock]:
        """Quantize all blocks."""
        self._known: dict[tuple[str, ...], BlockGroups] = {}
        self._of_each_shard(partial(ShardWorker.begin), self._wait)
        results = []
        for index, names in enumerate(self._layers):
            block = self._streamed.block_names[index]
            shapes = self._shapes(index)
            fits = partial(fit, self._job.method, shapes)
            result = self._journal.read(index, partial(fits, [*shapes]))
            if result is None:
                result, done = self._quantize(index, fits)
                exact = not done
            else:
                done = self._put(index, f"{block} (done before)", names, result)
                exact = True
            if index + 1 < len(self._layers):
                self._of_each_shard(partial(ShardWorker.advance, index=index, done=done, exact=exact), self._wait)
            for prefix in ("codes-", "sums-", KEPT, inputs_prefix(index), f"exact-{index:05}-"):
                self._exchange.remove(prefix)
            results.append(result)
        return results

    def _put(self, index: int, what: str, names: Group, result: DoneBlock) -> list[DoneGroup]:
        """Give all workers a block that was done before."""
        self._report(what, len(names))
        if not names:
            return []
        name = f"codes-{index:05}"
        self._exchange.write(name, {key: value[...] for key, value in result.tensors.items()})
        return [DoneGroup(names, name)]

    def _quantize(self, index: int, fits: Callable[..., bool]) -> tuple[DoneBlock, list[DoneGroup]]:
        """Quantize a block; return its result, and its groups."""
        names = self._layers[index]
        block = self._streamed.block_names[index]
        look = partial(ShardWorker.look, index=index, traced=names in self._known)
        ((_, found),) = self._tasks.run([look], self._wait)
        groups, corrections = self._known.setdefault(names, found)
        before = DoneGroups(self._journal, index, block, groups, fits)
        numbers = {group: number for number, group in enumerate(groups)}
        stages = stages_of(self._streamed.blocks[index], groups, self._job.method)
        # The last group is always solved again, so that the last of `live` ends the runs through the block.
        tensors: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        done: list[DoneGroup] = []
        live = [stage for stage in stages if any(before.of(group) is None for group in stage)]
        for stage in stages:
            left = {numbers[group]: group for group in stage if before.of(group) is None}
            own = {group: corrections[group] for group in left.values() if group in corrections}
            if left:
                sum_up = partial(
                    ShardWorker.sum_up,
                    index=index,
                    groups=left,
                    corrections=own,
                    done=tuple(done),
                    to_end=stage is live[-1],
                )
                self._of_each_shard(sum_up, self._wait)
            for group in stage:
                earlier = before.of(group)
                if earlier is not None:
                    self._exchange.write(
                        f"codes-{numbers[group]:05}", {key: value[...] for key, value in earlier.tensors.items()}
                    )
                    tensors |= earlier.tensors
                    facts |= earlier.facts
                    self._report_layers(block, group)
            for group, new in self._solved(index, left, tuple(done)):
                stored = self._exchange.read(f"codes-{numbers[group]:05}")
                tensors |= before.keep({key: value[...] for key, value in stored.items()}, new)
                facts |= new
                self._report_layers(block, group)
            done.extend(DoneGroup(group, f"codes-{numbers[group]:05}") for group in stage)
            self._exchange.remove("sums-")
        # In the order of the groups, whatever came first.
        order = [f"{block}.{layer}" for group in groups for layer in group]
        tensors = {key: tensors[key] for layer in order for key in tensors if key.rpartition(".")[0] == layer}
        return self._journal.write(index, tensors, {layer: facts[layer] for layer in order}), done

    def _solved(
        self, index: int, groups: Mapping[int, Group], done: tuple[DoneGroup, ...]
    ) -> Iterator[tuple[Group, dict[str, Any]]]:
        """Yield groups and their facts as they are solved."""
        solve = partial(ShardWorker.solve, index=index, done=done)
        tasks = [
            partial(solve, number=number, group=group, name=f"codes-{number:05}") for number, group in groups.items()
        ]
        order = list(groups.values())
        for number, facts in self._tasks.run(tasks, self._wait):
            yield order[number], facts

    def _wait(self) -> None:
        self._report("", 0)

    def _report_layers(self, block: str, group: Group) -> None:
        for layer in group:
            self._report(f"{block}.{layer}")

    def _report(self, what: str, count: int = 1) -> None:
        self._num_done += count
        self._on_progress(ProgressEvent("quantize", self._num_done, sum(map(len, self._layers)), "layers", what))
