"""Identify the processor and count its cores."""

import os
import platform
import re
from pathlib import Path


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name; `platform` knows it only off Linux."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
