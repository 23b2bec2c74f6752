"""How fast this machine multiplies, reads memory and writes to a disk: measured once in about two seconds, and kept."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from qtoolkit.files import keep_json, read_json, user_cache
from qtoolkit.measure.machine import num_cores, processor
from qtoolkit.records import Speed

_SIZE = 1024  # of square matrices
_MEMORY_BYTES = 2**26
_DISK_BYTES = 2**25
_REPEATS = 3


def measure_speed(folder: Path, cache: Path | None = None) -> Speed:
    """Return the speed of the processor, its memory, and the disk of a folder.

    Args:
        folder: where the disk is tried, in a file that is removed.
        cache: file that keeps what was measured; None for the user's cache folder. What was measured by another
            version of torch, or on another processor, does not count.
    """
    import torch

    from qtoolkit.tensor.processor import bfloat16_is_fast

    file = cache or user_cache() / "speed.json"
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = f"{num_cores()} cores, {torch.get_num_threads()} threads"
    key = f"{processor()}, {instructions}, {threads}, torch {torch.__version__}"
    known = _known(file)
    found = known.get(key)
    if found is None:
        wide = _multiply(torch.float32)
        narrow = _multiply(torch.bfloat16) if bfloat16_is_fast() else wide
        found = {"multiply": narrow, "multiply32": wide, "memory": _memory()}
        keep_json(file, {**known, key: found})
    return Speed(**found, disk=_disk(folder), source="measured here")


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs, after one that does not count."""
    run()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def _multiply(dtype: object) -> float:
    """Operations a second of a product of matrices."""
    import torch

    a = torch.ones(_SIZE, _SIZE, dtype=dtype)  # type: ignore[call-overload]
    return 2.0 * _SIZE**3 / _best(lambda: a @ a)


def _memory() -> float:
    """Bytes a second that are read."""
    import torch

    data = torch.ones(_MEMORY_BYTES // 4)
    return _MEMORY_BYTES / _best(data.sum)


def _disk(folder: Path) -> float:
    """Bytes a second that are written and synced; 0 where nothing can be written."""
    place = next((path for path in (folder, *folder.parents) if path.is_dir()), None)
    data = bytes(_DISK_BYTES)
    try:
        # Without a name, so that nothing is left of it where the process is killed meanwhile.
        with TemporaryFile(dir=place) as file:
            start = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            return _DISK_BYTES / (time.perf_counter() - start)
    except OSError:
        return 0.0


def _known(file: Path) -> dict[str, dict[str, float]]:
    names = {"multiply", "multiply32", "memory"}
    return {key: found for key, found in read_json(file).items() if isinstance(found, dict) and set(found) == names}
