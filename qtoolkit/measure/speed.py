"""Measure how fast this machine multiplies, reads memory and writes to a disk, in about two seconds, and cache it."""

import os
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from qtoolkit.files import cache_json, read_json, user_cache
from qtoolkit.measure.cpu import num_cores, processor
from qtoolkit.measure.disk import nearest_folder
from qtoolkit.records import Speed

_SIZE = 1024  # of square matrices
_MEMORY_BYTES = 2**26
_DISK_BYTES = 2**25
_REPEATS = 3


def measure_speed(folder: Path, cache: Path | None = None) -> Speed:
    """Return the speed of the processor, its memory, and the disk of a folder.

    Args:
        folder: the disk is measured here, with a temporary file.
        cache: file with cached results; None for the one in the user's cache folder. Results of another version of
            torch, or of another processor, are not used.
    """
    import torch

    from qtoolkit.tensor.processor import bfloat16_is_fast

    file = cache or user_cache() / "speed.json"
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = f"{num_cores()} cores, {torch.get_num_threads()} threads"
    key = f"{processor()}, {instructions}, {threads}, torch {torch.__version__}"
    cached = _cached(file)
    figures = cached.get(key)
    if figures is None:
        multiply32 = _multiply(torch.float32)
        multiply = _multiply(torch.bfloat16) if bfloat16_is_fast() else multiply32
        figures = {"multiply": multiply, "multiply32": multiply32, "memory": _memory()}
        cache_json(file, {**cached, key: figures})
    return Speed(**figures, disk=_disk(folder), source="measured here")


def _best(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some runs, after one warm-up run."""
    run()
    return min(timeit.repeat(run, repeat=_REPEATS, number=1))


def _multiply(dtype: object) -> float:
    """Return the operations per second of a matrix product."""
    import torch

    a = torch.ones(_SIZE, _SIZE, dtype=dtype)  # type: ignore[call-overload]
    return 2.0 * _SIZE**3 / _best(lambda: a @ a)


def _memory() -> float:
    """Return the bytes per second read from memory."""
    import torch

    data = torch.ones(_MEMORY_BYTES // 4)
    return _MEMORY_BYTES / _best(data.sum)


def _disk(folder: Path) -> float:
    """Return the bytes per second written and synced; 0 if nothing can be written."""
    data = bytes(_DISK_BYTES)
    try:
        # The file has no name, so that nothing remains if the process is killed.
        with TemporaryFile(dir=nearest_folder(folder)) as file:
            start = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return _DISK_BYTES / (time.perf_counter() - start)
    except OSError:
        return 0.0


def _cached(file: Path) -> dict[str, dict[str, float]]:
    names = {"multiply", "multiply32", "memory"}
    return {key: value for key, value in read_json(file).items() if isinstance(value, dict) and set(value) == names}
