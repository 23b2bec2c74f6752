"""What workers cost and save: CPU seconds and wall time of GPTQ on SmolLM2-135M, in one process, two and four.

    OMP_NUM_THREADS=1 python -m benchmarks.workers MODEL [--samples 32] [--seq-len 256] [--shards 8] [--blocks 6]

Each process has one thread. Times are from the first block to the last, without what a job reads and saves before and
after, and without the start of the workers, which is done before. The first line has all samples in one shard, as a
job without shards has; all others have the same shards, and must give the same bytes. Behind each number of workers
stands how much faster than one it was, and by the simulation, of no more workers than there are cores.
"""

import argparse
import hashlib
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.measure.cpu import num_cores
from qtoolkit.records import ProgressEvent

WORKERS = (1, 2, 4)
TEXTS = [
    f"The {number}th boat of the harbour carries {number * 7} lamps and a bell of brass." for number in range(4000)
]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def first_blocks(model: Path, folder: Path, count: int) -> Path:
    """Return the folder of a copy of a model that runs its first blocks alone."""
    copy = folder / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(
        model, num_hidden_layers=min(count, config["num_hidden_layers"]), dtype="auto"
    )
    loaded.save_pretrained(copy)
    return copy


def measure(model: Path, config: qt.GPTQ, output: Path, executor: Any, workers: int) -> tuple[float, float, str]:
    """Return the wall time and CPU seconds of the blocks, and a hash of the weights."""
    marks: list[tuple[float, float]] = []

    def all_seconds() -> float:
        if executor is None:
            return cpu_seconds()
        # Each worker answers some of so many.
        return cpu_seconds() + sum(seconds_of(executor, workers).values())

    def mark(event: ProgressEvent) -> None:
        is_last = event.phase == "quantize" and event.done == event.total
        if event.phase == "quantize" and (not marks or (is_last and len(marks) == 1)):
            marks.append((time.monotonic(), all_seconds()))

    qt.quantize(model, config, output=output, device="cpu", executor=executor, on_progress=mark)
    (start, before), (stop, after) = marks
    digest = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()[:12]
    return stop - start, after - before, digest


def process_seconds(_number: int) -> tuple[int, float]:
    """Return the id of this process and its CPU seconds."""
    time.sleep(0.05)
    return multiprocessing.current_process().pid or 0, cpu_seconds()


def seconds_of(executor: Any, workers: int) -> dict[int, float]:
    """Return the CPU seconds of each worker."""
    found: dict[int, float] = {}
    while len(found) < workers:
        found.update(dict(executor.map(process_seconds, range(2 * workers))))
    return found


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=6)
    given = parser.parse_args()
    options: dict[str, Any] = {"calibration": TEXTS, "num_samples": given.samples, "seq_len": given.seq_len}
    config = qt.GPTQ(group_size=64, shards=given.shards, **options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = first_blocks(given.model, folder, given.blocks)
        ways = [
            ("1 process, 1 shard", qt.GPTQ(group_size=64, **options)),
            (f"1 process, {given.shards} shards", config),
        ]
        for number, (title, config_here) in enumerate(ways):
            wall, cpu, digest = measure(model, config_here, folder / str(number), None, 1)
            print(f"{title:24} {wall:7.1f} s wall  {cpu:7.1f} s CPU  {digest}", flush=True)
        sharing = qt.plan(model, config, workers=max(WORKERS), device="cpu").sharing
        assert sharing is not None
        simulated = dict(zip(sharing.counts, sharing.seconds, strict=True))
        alone = 0.0
        for count in WORKERS:
            with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as executor:
                # Imports are no part of the work: a small job before it.
                small = qt.GPTQ(group_size=64, shards=4, **options | {"num_samples": 4, "seq_len": 32})
                qt.quantize(model, small, output=folder / f"warm-{count}", device="cpu", executor=executor)
                wall, cpu, digest = measure(model, config, folder / f"of-{count}", executor, count)
            alone = alone or wall
            faster = (
                f"{alone / wall:.2f} times as fast, simulated {simulated[1] / simulated[min(count, num_cores())]:.2f}"
            )
            title = f"{count} workers, {given.shards} shards"
            print(f"{title:24} {wall:7.1f} s wall  {cpu:7.1f} s CPU  {digest}  {faster}", flush=True)


if __name__ == "__main__":
    main()
