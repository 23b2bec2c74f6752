"""How long GPTQ in shards takes on 1 to 256 workers, what each needs, and what goes over the network: a simulation.

    OMP_NUM_THREADS=8 python benchmarks/simulated_workers.py [--network 1.2e9] [--tokens 262144] [--shards 32]

Rates of multiplying, factoring, reading and writing are measured on this machine first, in CPU seconds of one process;
a worker is taken to be such a process, and the folder that all share to give `--network` bytes a second in all. Tasks
are those of `qtoolkit.stream.sharded_run`, given to whoever is free, stage after stage. Where a row says `no more`, so
many workers are less than a tenth faster than half of them.
"""

import argparse
import heapq
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

# As in `qtoolkit.stream.sharded_run`.
SUMS_BYTES = 2**31
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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


def dense(name: str, blocks: int, width: int, kv: int, inner: int) -> Layout:
    """Return the layout of a Llama."""
    stages = (
        (Group(1, width, width + 2 * kv),),
        (Group(1, width, width),),
        (Group(1, width, 2 * inner),),
        (Group(1, inner, width),),
    )
    return Layout(name, blocks, width, stages)


def mixture(name: str, blocks: int, width: int, kv: int, inner: int, *, experts: int, active: int) -> Layout:
    """Return the layout of a mixture of experts."""
    stages = (
        (Group(1, width, width + 2 * kv),),
        (Group(1, width, width),),
        (Group(experts, width, 2 * inner, active / experts),),
        (Group(experts, inner, width, active / experts),),
    )
    return Layout(name, blocks, width, stages)


# DeepSeek-V3 with its latent attention as plain layers of about the same size, and its three dense blocks left out.
LAYOUTS = (
    dense("Llama 70B", 80, 8192, 1024, 28672),
    mixture("Mixtral 8x7B", 32, 4096, 1024, 14336, experts=8, active=2),
    mixture("DeepSeek-V3", 58, 7168, 1536, 2048, experts=257, active=9),
)


class Rates(NamedTuple):
    """What one process does in a second: products and factors in operations, files in bytes."""

    multiply: float
    factor: float
    read: float
    write: float


class Task(NamedTuple):
    """What a task costs: seconds of work, and bytes that it reads and writes in the shared folder."""

    seconds: float
    nbytes: float


def measured_rates() -> Rates:
    """Measure this machine in CPU seconds, so that other programs change little; a second or two."""

    def seconds(call: Callable[[], object]) -> float:
        call()
        start = time.process_time()
        call()
        return (time.process_time() - start) / torch.get_num_threads()

    size = 1024
    square = torch.randn(size, size)
    positive = square @ square.T + size * torch.eye(size)
    multiply = 2 * size**3 / seconds(lambda: square @ square)
    factor = size**3 / 3 / seconds(lambda: torch.linalg.cholesky(positive))
    data = bytes(2**26)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data"
        write = len(data) / seconds(lambda: file.write_bytes(data))
        read = len(data) / seconds(file.read_bytes)
    return Rates(multiply, factor, read, write)


def runs_of(layout: Layout) -> Iterator[tuple[Group, ...]]:
    """Yield the groups that are summed up in one run through the block: so many experts as 2 GB of sums hold."""
    for stage in layout.stages:
        for group in stage:
            most = max(1, SUMS_BYTES // (4 * group.inputs**2))
            for first in range(0, group.copies, most):
                yield (group._replace(copies=min(most, group.copies - first)),)


def stages_of(layout: Layout, rates: Rates, *, tokens: int, shards: int) -> Iterator[list[Task]]:
    """Yield the stages of one block, each the tasks that wait for those of the stage before."""
    part = tokens / shards
    hidden = 2 * part * layout.width
    # Twice: what the quantized model and the full-precision model make of it (qep_alpha).
    forward = 2 * sum(
        2 * part * group.copies * group.share * group.inputs * group.outputs
        for stage in layout.stages
        for group in stage
    )
    for stage in runs_of(layout):
        sums = sum(2 * 4 * group.copies * group.inputs**2 for group in stage)
        products = sum(2 * 2 * part * group.copies * group.share * group.inputs**2 for group in stage)
        seconds = (forward + products) / rates.multiply + 2 * hidden / rates.read + sums / rates.write
        yield [Task(seconds, 2 * hidden + sums)] * shards
        yield [
            Task(
                2 * group.inputs**3 / rates.factor
                # Solved once, and refined three times.
                + 8 * group.outputs * group.inputs**2 / rates.multiply
                + shards * 8 * group.inputs**2 / rates.read,
                shards * 8 * group.inputs**2 + group.inputs * group.outputs / 2,
            )
            for group in stage
            for _ in range(group.copies)
        ]
    yield [Task(forward / rates.multiply + hidden / rates.read + 2 * hidden / rates.write, 4 * hidden)] * shards


def simulated(layout: Layout, rates: Rates, workers: int, *, network: float, tokens: int, shards: int) -> float:
    """Return the seconds of a job: of each stage the last worker's, or the network's where that takes longer."""
    read = layout.block_bytes() * min(workers, shards)
    seconds = max(layout.block_bytes() / rates.read, read / network)
    for stage in stages_of(layout, rates, tokens=tokens, shards=shards):
        free = [0.0] * min(workers, len(stage))
        for task in stage:
            heapq.heappush(free, heapq.heappop(free) + task.seconds)
        seconds += max(*free, sum(task.nbytes for task in stage) / network, 0.0)
    return seconds * layout.blocks


def main() -> None:
    """Print a table for each layout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", type=float, default=1.2e9, help="bytes a second of the shared folder")
    parser.add_argument("--tokens", type=int, default=128 * 2048)
    parser.add_argument("--shards", type=int, default=32)
    given = parser.parse_args()
    rates = measured_rates()
    print(
        f"{torch.get_num_threads()} threads: {rates.multiply / 1e9:.0f} GFLOP/s, factors {rates.factor / 1e9:.0f}, "
        f"reads {rates.read / 1e9:.1f} GB/s, writes {rates.write / 1e9:.1f} GB/s"
    )
    for layout in LAYOUTS:
        stages = [*stages_of(layout, rates, tokens=given.tokens, shards=given.shards)]
        moved = layout.blocks * sum(task.nbytes for stage in stages for task in stage)
        sums = max(8 * group.copies * group.inputs**2 for (group,) in runs_of(layout))
        part = 4 * given.tokens / given.shards * layout.width
        memory = layout.block_bytes() + sums + part
        print(
            f"{layout.name}: {memory / 1e9:.1f} GB of memory a worker; {given.shards * (sums + part) / 1e9:.0f} GB of "
            f"disk in the shared folder; {moved / 1e12:.1f} TB through it, and {layout.block_bytes() / 1e9:.1f} GB of "
            "weights a block and worker"
        )
        before = 0.0
        for workers in WORKERS:
            seconds = simulated(layout, rates, workers, network=given.network, tokens=given.tokens, shards=given.shards)
            end = " no more" if before and seconds > 0.9 * before else ""
            print(f"  {workers:4} workers {seconds / 3600:10.1f} h{end}")
            before = seconds


if __name__ == "__main__":
    main()
