"""How long workers take for GPTQ in shards, by a formula for cases that have one."""

import pytest

from qtoolkit.measure.worker_rates import Rates
from qtoolkit.planning.worker_times import (
    Group,
    Layout,
    SharedJob,
    block_stages,
    enough_workers,
    job_seconds,
    kept_bytes,
    shared_bytes,
    spread_seconds,
)

# 3 blocks of width 8 with two groups, the second of four experts of which each token sees two.
LAYOUT = Layout("small", 3, 8, ((Group(1, 8, 24),), (Group(4, 16, 8, 0.5),)))
JOB = SharedJob(tokens=400, shards=4)
# Multiplying alone takes time.
RATES = Rates(multiply=1e6, factor=1e30, read=1e30, write=1e30)
FAST = 1e30
# Operations of a block: runs of both streams for each group and at the end, sums, and solving four times over.
RUN = 2 * 2 * 400 * (8 * 24 + 4 * 0.5 * 16 * 8)
SUMS = 2 * 2 * 400 * (8 * 8 + 4 * 0.5 * 16 * 16)
SOLVES = [8 * 24 * 8**2, *[8 * 8 * 16**2] * 4]


def seconds(workers: int, *, network: float = FAST, cores: int | None = None, job: SharedJob = JOB) -> float:
    return job_seconds(LAYOUT, RATES, job, workers, network=network, cores=cores)


def test_one_worker_takes_the_sum_of_all_operations() -> None:
    assert seconds(1) == pytest.approx(3 * (3 * RUN + SUMS + sum(SOLVES)) / 1e6)


def test_more_workers_wait_for_the_last_task_of_each_stage() -> None:
    # Four shards on three workers take as long as two; one layer is solved, then four on three workers.
    expected = 3 * (2 / 4 * (3 * RUN + SUMS) + SOLVES[0] + 2 * SOLVES[1]) / 1e6
    assert seconds(3) == pytest.approx(expected)
    # No shard is left for a fifth.
    assert seconds(5) == seconds(4) < seconds(3)


def test_workers_of_one_machine_are_no_more_than_its_cores() -> None:
    assert seconds(4, cores=2) == seconds(2)
    assert seconds(2, cores=8) == seconds(2)


def test_a_slow_network_takes_its_own_time() -> None:
    moved = shared_bytes(LAYOUT, JOB)
    assert moved == 3 * sum(task.nbytes for stage in block_stages(LAYOUT, RATES, JOB) for task in stage)
    # Each of four workers reads the weights of each block.
    assert seconds(4, network=1.0) == pytest.approx(moved + 4 * 3 * LAYOUT.block_bytes())


def test_blocks_for_themselves_are_one_task_each() -> None:
    alone = JOB._replace(propagates=False)
    # Samples go through all blocks by shards; then a worker does a block with all shards.
    block = (2 * RUN + SUMS + sum(SOLVES)) / 1e6
    assert seconds(1, job=alone) == pytest.approx(3 * RUN / 1e6 + 3 * block)
    assert seconds(3, job=alone) == pytest.approx(3 * RUN / 4 * 2 / 1e6 + block)


def test_the_folder_holds_hidden_states_and_the_sums_of_a_stage() -> None:
    # Two streams, before and after a block, in 16 bits; and 4 bytes for each of two sums of a layer and shard.
    assert kept_bytes(LAYOUT, JOB) == 2 * 2 * 2 * 400 * 8 + 4 * 2 * 4 * 4 * 16**2
    # What every block gets, and what is written while the last is read.
    assert kept_bytes(LAYOUT, JOB._replace(propagates=False)) == 4 * 2 * 400 * 8


def test_where_more_save_little() -> None:
    assert enough_workers([(1, 100.0), (2, 60.0), (4, 55.0), (8, 55.0)]) == 2
    assert enough_workers([(1, 100.0), (2, 50.0)]) == 0


def test_tasks_that_wait_for_nothing() -> None:
    costs = [(3.0, 10.0), (1.0, 10.0), (2.0, 10.0)]
    assert spread_seconds(costs, 1, network=FAST) == 6.0
    assert spread_seconds(costs, 2, network=FAST) == 3.0
    assert spread_seconds(costs, 2, network=5.0) == 6.0
    assert spread_seconds([], 2, network=FAST) == 0.0
