"""The memory that this process is allowed by `ulimit`, as SLURM and shared hubs set it: Linux's resource limits."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Line of `proc/self/limits`, line of `proc/self/status`, option of `ulimit`, and bytes that jobs take of it beyond what
# they have resident: -51 to 287 MB of addresses, -52 to 164 MB of data, measured with absmax, int8 and GPTQ of
# SmolLM2-135M, 1, 2 and 8 threads, torch 2.13. A good part are heaps that threads reserve, and do without near a limit.
_KINDS = (
    ("Max address space", "VmSize", "-v", 150_000_000),
    ("Max data size", "VmData", "-d", 100_000_000),
)
# Of a thread, where `ulimit -s` sets no other: glibc on x86-64 and ARM.
_STACK_BYTES = 2**21


class ProcessLimit(NamedTuple):
    """A limit of this process.

    Attributes:
        command: how it was set, "ulimit -v 4000000".
        limit: bytes that it may take.
        used: bytes that count against it now.
        overhead: bytes that a job takes of it beyond what is resident, the stacks of its threads aside.
    """

    command: str
    limit: int
    used: int
    overhead: int


def process_limits(root: Path) -> Iterator[ProcessLimit]:
    """The limits on addresses and data that are set for this process; none off Linux.

    Args:
        root: where `proc/self/limits` and `proc/self/status` are found: `/`.
    """
    limits = _read(root / "proc/self/limits")
    for name, counter, option, overhead in _KINDS:
        limit = _soft_limit(limits, name)
        used = re.search(rf"^{counter}:\s+(\d+) kB", _read(root / "proc/self/status"), re.MULTILINE)
        if limit is not None and used:
            yield ProcessLimit(f"ulimit {option} {limit // 1024}", limit, int(used[1]) * 1024, overhead)


def largest_file(root: Path = Path("/")) -> int | None:
    """Bytes that a file of this process may have; None without such a limit.

    Args:
        root: where `proc/self/limits` is found.
    """
    return _soft_limit(_read(root / "proc/self/limits"), "Max file size")


def stack_bytes(root: Path) -> int:
    """Addresses that each thread's stack takes.

    Args:
        root: where `proc/self/limits` is found.
    """
    return _soft_limit(_read(root / "proc/self/limits"), "Max stack size") or _STACK_BYTES


def _soft_limit(limits: str, name: str) -> int | None:
    """What holds; the hard limit beside it is how far it may be raised. None for "unlimited"."""
    found = re.search(rf"^{name}\s+(\d+)\s", limits, re.MULTILINE)
    return int(found[1]) if found else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # another system
        return ""
