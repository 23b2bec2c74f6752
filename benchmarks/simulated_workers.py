"""How long GPTQ in shards takes on 1 to 256 workers, what each needs, and what goes over the network: a simulation.

    OMP_NUM_THREADS=8 python benchmarks/simulated_workers.py [--network 1.2e9] [--tokens 262144] [--shards 32]

Rates of multiplying, factoring, reading and writing are measured on this machine first, in CPU seconds of one process;
a worker is taken to be such a process, and the folder that all share to give `--network` bytes a second in all. Tasks
are those of `qtoolkit.stream.sharded_run`, given to whoever is free, stage after stage. Where a row says `no more`, so
many workers are less than a tenth faster than half of them.
"""

import argparse

import torch

from qtoolkit.measure.worker_rates import measure_rates
from qtoolkit.planning.worker_times import Group, Layout, SharedJob, job_seconds, kept_bytes, shared_bytes

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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


def main() -> None:
    """Print a table for each layout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", type=float, default=1.2e9, help="bytes a second of the shared folder")
    parser.add_argument("--tokens", type=int, default=128 * 2048)
    parser.add_argument("--shards", type=int, default=32)
    given = parser.parse_args()
    rates = measure_rates()
    threads = torch.get_num_threads()
    rates = rates._replace(multiply=threads * rates.multiply, factor=threads * rates.factor)
    job = SharedJob(given.tokens, given.shards)
    print(
        f"{threads} threads: {rates.multiply / 1e9:.0f} GFLOP/s, factors {rates.factor / 1e9:.0f}, "
        f"reads {rates.read / 1e9:.1f} GB/s, writes {rates.write / 1e9:.1f} GB/s"
    )
    for layout in LAYOUTS:
        moved = shared_bytes(layout, job)
        # A worker has a block, and of one shard what the folder has of all.
        memory = layout.block_bytes() + kept_bytes(layout, job) / given.shards
        print(
            f"{layout.name}: {memory / 1e9:.1f} GB of memory a worker beside its process; "
            f"{kept_bytes(layout, job) / 1e9:.0f} GB of disk in the shared folder; {moved / 1e12:.1f} TB through it, "
            f"and {layout.block_bytes() / 1e9:.1f} GB of weights a block and worker"
        )
        before = 0.0
        for workers in WORKERS:
            seconds = job_seconds(layout, rates, job, workers, network=given.network)
            end = " no more" if before and seconds > 0.9 * before else ""
            print(f"  {workers:4} workers {seconds / 3600:10.1f} h{end}")
            before = seconds


if __name__ == "__main__":
    main()
