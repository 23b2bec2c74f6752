"""Estimate how long workers take for GPTQ in shards: its tasks, given to whoever is free, from measured rates."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from qtoolkit.measure.worker_rates import Rates

# As in `qtoolkit.stream.run`: sums of experts that are made in one run of a block.
SUMS_BYTES = 2**31
# What is refined three times multiplies with the Hessian four times, and the solution itself.
_PRODUCTS = 4
# A worker beyond which twice as many save less than this is not worth it.
_WORTH = 0.1


class Group(NamedTuple):
    """Layers that share their inputs: how many such groups a block has, their inputs and outputs.

    `share` is the part of all tokens that each group sees.
    """

    copies: int
    inputs: int
    outputs: int
    share: float = 1.0


class Layout(NamedTuple):
    """The shape of a model: how many blocks of which stages of groups, and its width."""

    name: str
    blocks: int
    width: int
    stages: tuple[tuple[Group, ...], ...]

    def block_bytes(self) -> int:
        """Return the bytes of a block's weights in 16 bits."""
        return 2 * sum(group.copies * group.inputs * group.outputs for stage in self.stages for group in stage)


class SharedJob(NamedTuple):
    """What is calibrated, and how it is shared out.

    Attributes:
        tokens: of all samples.
        shards: parts of the samples.
        propagates: whether a block sees what those before it make; otherwise a task is a block.
        corrected: whether the full-precision model runs too (`qep_alpha`).
    """

    tokens: int
    shards: int
    propagates: bool = True
    corrected: bool = True


class Task(NamedTuple):
    """What a task costs: seconds of work, and bytes that it reads and writes in the shared folder."""

    seconds: float
    nbytes: float


def block_stages(layout: Layout, rates: Rates, job: SharedJob) -> Iterator[list[Task]]:
    """Yield the stages of one block, each the tasks that wait for those of the stage before.

    Args:
        layout: the model.
        rates: of a worker.
        job: the text and its shards.
    """
    part = job.tokens / job.shards
    hidden = 2 * part * layout.width
    kinds = 2 if job.corrected else 1
    forward = kinds * sum(
        2 * part * group.copies * group.share * group.inputs * group.outputs
        for stage in layout.stages
        for group in stage
    )
    for stage in _runs(layout):
        sums = sum(kinds * 4 * group.copies * group.inputs**2 for group in stage)
        products = sum(kinds * 2 * part * group.copies * group.share * group.inputs**2 for group in stage)
        seconds = (forward + products) / rates.multiply + kinds * hidden / rates.read + sums / rates.write
        yield [Task(seconds, kinds * hidden + sums)] * job.shards
        yield [
            Task(
                kinds * group.inputs**3 / rates.factor
                + 2 * _PRODUCTS * group.outputs * group.inputs**2 / rates.multiply
                + job.shards * kinds * 4 * group.inputs**2 / rates.read,
                job.shards * kinds * 4 * group.inputs**2 + group.inputs * group.outputs / 2,
            )
            for group in stage
            for _ in range(group.copies)
        ]
    seconds = forward / rates.multiply + hidden / rates.read + kinds * hidden / rates.write
    yield [Task(seconds, 2 * kinds * hidden)] * job.shards


def job_seconds(
    layout: Layout, rates: Rates, job: SharedJob, workers: int, *, network: float, cores: int | None = None
) -> float:
    """Return the seconds of a job: of each stage the last worker's, or the network's where that takes longer.

    Args:
        layout: the model.
        rates: of a worker that has its cores for itself.
        job: the text and its shards.
        workers: how many there are.
        network: bytes a second of the folder that all share.
        cores: that all workers share; None where each has its own.
    """
    workers = workers if cores is None else min(workers, cores)
    stages = [*block_stages(layout, rates, job)]
    if not job.propagates:
        # The last stage alone runs the samples on, shard by shard; then each block is a task.
        onward = stages[-1]
        block = Task(
            layout.block_bytes() / rates.read + sum(task.seconds for stage in stages[:-1] for task in stage),
            layout.block_bytes(),
        )
        return layout.blocks * _last(onward, workers, network) + _last([block] * layout.blocks, workers, network)
    read = layout.block_bytes() * min(workers, job.shards)
    seconds = max(layout.block_bytes() / rates.read, read / network)
    return layout.blocks * (seconds + sum(_last(stage, workers, network) for stage in stages))


def spread_seconds(costs: Sequence[tuple[float, float]], workers: int, *, network: float) -> float:
    """Return the seconds of tasks that wait for nothing.

    Args:
        costs: of each its seconds, and the bytes that it reads and writes.
        workers: how many there are.
        network: as for `job_seconds`.
    """
    return _last([Task(*cost) for cost in costs], workers, network) if costs else 0.0


def shared_bytes(layout: Layout, job: SharedJob) -> float:
    """Return the bytes that go through the folder that all share, but for the weights of the model."""
    # Bytes do not depend on the rates.
    stages = [*block_stages(layout, Rates(1.0, 1.0, 1.0, 1.0), job)]
    moved = sum(task.nbytes for task in stages[-1])
    if job.propagates:
        moved = sum(task.nbytes for stage in stages for task in stage)
    return layout.blocks * moved


def kept_bytes(layout: Layout, job: SharedJob) -> float:
    """Return the most bytes that the folder holds: hidden states, and the sums of a stage of all shards."""
    kinds = 2 if job.corrected else 1
    hidden = 2 * job.tokens * layout.width
    if not job.propagates:
        return (layout.blocks + 1) * hidden
    sums = max(kinds * 4 * sum(group.copies * group.inputs**2 for group in stage) for stage in _runs(layout))
    return job.shards * sums + 2 * kinds * hidden


def enough_workers(seconds: Sequence[tuple[int, float]]) -> int:
    """Return the number of workers from which on twice as many save less than a tenth; 0 where all save more.

    Args:
        seconds: numbers of workers, each twice that before, with the seconds that they take.
    """
    for (count, before), (_, after) in pairwise(seconds):
        if after > (1 - _WORTH) * before:
            return count
    return 0


def _last(tasks: Sequence[Task], workers: int, network: float) -> float:
    """Return the seconds until the last of some tasks is done, each given to whoever is free."""
    free = [0.0] * min(workers, len(tasks))
    for task in tasks:
        heapq.heappush(free, heapq.heappop(free) + task.seconds)
    return max(*free, sum(task.nbytes for task in tasks) / network, 0.0)


def _runs(layout: Layout) -> Iterator[tuple[Group, ...]]:
    """Yield the groups that are summed up in one run through the block: so many experts as 2 GB of sums hold."""
    for stage in layout.stages:
        for group in stage:
            most = max(1, SUMS_BYTES // (4 * group.inputs**2))
            for first in range(0, group.copies, most):
                yield (group._replace(copies=min(most, group.copies - first)),)
