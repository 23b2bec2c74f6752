"""What the jobs of other libraries say of themselves: seconds without imports, processor seconds, peak."""

import json
import time
from pathlib import Path


def started() -> tuple[float, float]:
    """Return the clock and the process's processor time when the work begins."""
    return time.monotonic(), time.process_time()


def finished(begin: tuple[float, float]) -> None:
    """Print what the work took."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    took = {"seconds": time.monotonic() - begin[0], "processor_seconds": time.process_time() - begin[1]}
    print("RESULT", json.dumps(took | {"peak": 1024 * peak}), flush=True)
