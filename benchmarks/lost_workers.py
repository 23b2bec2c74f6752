"""What a Dask cluster gives when it loses workers: GPTQ on SmolLM2-135M, all bytes compared with those of one process.

    OMP_NUM_THREADS=1 python benchmarks/lost_workers.py MODEL [--jobs 10] [--seed 0] [--blocks 3] [--samples 16]

A `LocalCluster` of four workers does the jobs. In each, two of its workers are killed (SIGKILL) at random moments, and
one is added; between two jobs there are four again. At the end the scheduler is killed in the middle of a job, and the
same call without an executor goes on from the journal.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
from workers import TEXTS, first_blocks

import qtoolkit as qt
from qtoolkit.errors import QToolkitError
from qtoolkit.records import ProgressEvent

WORKERS = 4
# It has no types.
CLUSTER: Any = distributed.LocalCluster
CLIENT: Any = distributed.Client


def digest_of(folder: Path) -> str:
    """Return a hash of the weights in a folder."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def program(*arguments: str) -> "subprocess.Popen[bytes]":
    """Start a program of Dask."""
    command = [sys.executable, "-m", "dask", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def add_worker(address: str) -> "subprocess.Popen[bytes]":
    """Start a worker of one thread, which no other program starts again when it is lost."""
    return program("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")


class Losses:
    """Kill two workers of a cluster at given moments after a job has begun, and add one.

    Args:
        client: of the cluster.
        moments: seconds after the first progress of the blocks: of two losses, and of the worker that is added.
        chooser: chooses who is killed.
    """

    def __init__(self, client: Any, moments: list[float], chooser: random.Random) -> None:
        self._client = client
        self._moments = moments
        self._chooser = chooser
        self._timers: list[threading.Timer] = []
        self.killed: list[str] = []
        self.added: list[subprocess.Popen[bytes]] = []

    def begin(self, event: ProgressEvent) -> None:
        """Set the timers at the first progress of the blocks; takes the events of a job."""
        if event.phase == "quantize" and not self._timers:
            actions = [self._kill, self._kill, self._add]
            for moment, action in zip(self._moments, actions, strict=True):
                self._timers.append(threading.Timer(moment, action))
                self._timers[-1].start()

    def end(self) -> None:
        """Wait until all has happened."""
        for timer in self._timers:
            timer.join()

    def _kill(self) -> None:
        pids = self._client.run(os.getpid)
        address = self._chooser.choice(sorted(pids))
        self.killed.append(address)
        os.kill(pids[address], signal.SIGKILL)

    def _add(self) -> None:
        self.added.append(add_worker(self._client.scheduler.address))


@contextmanager
def cluster_of_four() -> Any:
    """Start a cluster whose workers stay lost, and yield its client."""
    with CLUSTER(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
        with CLIENT(cluster) as client:
            yield client


def lose_workers(model: Path, config: qt.GPTQ, folder: Path, *, jobs: int, seed: int, expected: str) -> int:
    """Do jobs that lose workers, print a line for each, and return how many gave other bytes or ended early."""
    chooser = random.Random(seed)  # noqa: S311  # moments of losses
    wrong = 0
    with cluster_of_four() as client:
        started = time.monotonic()
        qt.quantize(model, config, output=folder / "calm", device="cpu", executor=client)
        calm = time.monotonic() - started
        print(f"{WORKERS} workers, none lost: {calm:.1f} s, {digest_of(folder / 'calm')}", flush=True)
        programs: list[subprocess.Popen[bytes]] = []
        for number in range(jobs):
            moments = sorted(chooser.uniform(0.1, 0.7 * calm) for _ in range(3))
            chooser.shuffle(moments)
            losses = Losses(client, moments, chooser)
            output = folder / f"job-{number}"
            started = time.monotonic()
            try:
                qt.quantize(model, config, output=output, device="cpu", executor=client, on_progress=losses.begin)
                got = digest_of(output)
            except QToolkitError as error:
                got = str(error)
            seconds = time.monotonic() - started
            losses.end()
            wrong += got != expected
            at = ", ".join(f"{moment:.1f}" for moment in moments[:2])
            print(
                f"job {number}: {len(losses.killed)} killed at {at} s, 1 added at {moments[2]:.1f} s: "
                f"{seconds:.1f} s, {got} {'same' if got == expected else 'OTHER'}",
                flush=True,
            )
            programs.extend(losses.added)
            while len(programs) < 2 * (number + 1):
                programs.append(add_worker(client.scheduler.address))
            client.wait_for_workers(WORKERS, timeout=120)
        for one in programs:
            one.kill()
            one.wait()
    return wrong


def lose_scheduler(model: Path, config: qt.GPTQ, output: Path, *, expected: str) -> int:
    """Kill the scheduler in the middle of a job, go on without it, and return whether bytes differ."""
    address = "tcp://127.0.0.1:18786"
    programs = [program("scheduler", "--host", "127.0.0.1", "--port", "18786", "--no-dashboard")]
    programs += [add_worker(address) for _ in range(2)]
    seen: list[str] = []

    def kill_in_second_block(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done > 8 and programs[0].poll() is None:
            programs[0].kill()
            programs[0].wait()

    try:
        with CLIENT(address, timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            started = time.monotonic()
            try:
                executor = client.get_executor()
                qt.quantize(
                    model, config, output=output, device="cpu", executor=executor, on_progress=kill_in_second_block
                )
                said = "it ended all the same"
            except QToolkitError as error:
                said = str(error)
            print(f"scheduler lost, after {time.monotonic() - started:.1f} s: {said}", flush=True)
    finally:
        for one in programs:
            one.kill()
            one.wait()
    qt.quantize(model, config, output=output, device="cpu", on_progress=lambda event: seen.append(event.detail))
    kept = sorted({detail for detail in seen if "done before" in detail})
    got = digest_of(output)
    print(f"one process goes on ({', '.join(kept)}): {got} {'same' if got == expected else 'OTHER'}", flush=True)
    return got != expected or not kept


def main() -> None:
    """Print a line for each job; end with an error if one gave other bytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16)
    given = parser.parse_args()
    config = qt.GPTQ(group_size=64, shards=8, calibration=TEXTS, num_samples=given.samples, seq_len=64, refine=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = first_blocks(given.model, folder, given.blocks)
        qt.quantize(model, config, output=folder / "here", device="cpu")
        expected = digest_of(folder / "here")
        print(f"one process: {expected}", flush=True)
        wrong = 0
        if given.jobs:
            wrong += lose_workers(model, config, folder, jobs=given.jobs, seed=given.seed, expected=expected)
        wrong += lose_scheduler(model, config, folder / "scheduler", expected=expected)
    sys.exit(f"{wrong} jobs gave other bytes" if wrong else 0)


if __name__ == "__main__":
    main()
