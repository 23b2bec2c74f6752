"""Find out how much memory this process may use: what is free, the limits of containers, and those of `ulimit`.

Linux describes both kinds of limits in files: control groups of version 2 and version 1, and resource limits, as SLURM
and shared hubs set them. Other systems have none of these files.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from qtoolkit.measure.cpu import num_cores

# Line of `proc/self/limits`, line of `proc/self/status`, option of `ulimit`, and bytes that jobs take of it beyond what
# they have resident: -51 to 287 MB of addresses, -52 to 164 MB of data, measured with absmax, int8 and GPTQ of
# SmolLM2-135M, 1, 2 and 8 threads, torch 2.13. A good part are heaps that threads reserve but do not need near a limit.
_KINDS = (
    ("Max address space", "VmSize", "-v", 150_000_000),
    ("Max data size", "VmData", "-d", 100_000_000),
)
# Stack of a thread if `ulimit -s` sets no other size: glibc on x86-64 and ARM.
_STACK_BYTES = 2**21
_ROOT = Path("/")


class MemoryLimit(NamedTuple):
    """Hold one limit on the memory of this process, in bytes.

    Attributes:
        limit: bytes that may be used.
        used: bytes that count against it now.
        command: the `ulimit` command that sets it, "ulimit -v 4000000"; empty for a container's limit.
        overhead: bytes that a job takes of it beyond its resident memory, the stacks of its threads not counted.
    """

    limit: int
    used: int
    command: str = ""
    overhead: int = 0


class _CgroupFiles(NamedTuple):
    """Name the files in which a version of control groups keeps its figures."""

    mount: str
    limit: str
    usage: str
    cache: str


_V2 = _CgroupFiles("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _CgroupFiles("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(root: Path = _ROOT) -> int:
    """Return the bytes that a new job can use: what the system has free, within the limits of containers and `ulimit`.

    A control group's cache of inactive files does not count as used: the kernel frees it first.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    return _least_left(root)[0]


def limited_by(root: Path = _ROOT) -> str:
    """Return the `ulimit` that determines `available_memory`, "ulimit -v 4000000"; empty if none does.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    return _least_left(root)[1]


def resident_room(root: Path = _ROOT) -> tuple[int, str]:
    """Return the bytes that a new job can have resident, and the `ulimit` that determines them; "" if none does.

    A job takes more of a `ulimit` than it has resident: stacks and heaps of threads, libraries loaded late.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    return _least_left(root, with_overhead=True)


def memory_limit(root: Path = _ROOT) -> int:
    """Return the most bytes that this process may use: the machine's memory, or the smallest limit on it.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    limits = [limit.limit for limit in (*_container_limits(root), *_process_limits(root))]
    return min([psutil.virtual_memory().total, *limits])


def largest_file(root: Path = _ROOT) -> int | None:
    """Return the bytes that a file of this process may have; None without a limit.

    Args:
        root: the folder that holds `proc`.
    """
    return _soft_limit(root, "Max file size")


def status_bytes(name: str, root: Path = _ROOT) -> int | None:
    """Return a figure of `/proc/self/status`, such as "VmHWM"; None where there is none, as off Linux.

    Args:
        name: of the line.
        root: the folder that holds `proc`.
    """
    # A line reads "VmHWM:     2032 kB"; some sandboxes leave lines out.
    found = re.search(rf"^{name}:\s+(\d+) kB", _read(root / "proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _least_left(root: Path, *, with_overhead: bool = False) -> tuple[int, str]:
    """Return the bytes that the tightest limit leaves, and its `ulimit` command; "" for a container or the system."""
    left = [(psutil.virtual_memory().available, "")]
    left += [(limit.limit - limit.used, "") for limit in _container_limits(root)]
    for limit in _process_limits(root):
        overhead = limit.overhead + _stack_bytes(root) if with_overhead else 0
        left.append((limit.limit - limit.used - overhead, limit.command))
    room, command = min(left)
    return max(0, room), command


def _process_limits(root: Path) -> Iterator[MemoryLimit]:
    """Return the limits on addresses and data that `ulimit` sets for this process."""
    for name, counter, option, overhead in _KINDS:
        limit = _soft_limit(root, name)
        used = status_bytes(counter, root)
        if limit is not None and used is not None:
            yield MemoryLimit(limit, used, f"ulimit {option} {limit // 1024}", overhead)


def _container_limits(root: Path) -> Iterator[MemoryLimit]:
    """Return the limits of this process's control groups, innermost first: it is bound by its own and all above."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        # "0::/user.slice" for version 2, "4:memory:/docker/1f2e" for version 1
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        files = _V2 if number == "0" else _V1
        # In a container the path can be that of the host; then only the mount itself exists.
        group = root / files.mount / path.strip("/")
        for folder in (group, *group.parents):
            limit = _read(folder / files.limit).strip()
            if limit.isdecimal():  # "max" without a limit; empty if the group is not visible
                yield MemoryLimit(int(limit), _used(folder, files))


def _used(group: Path, files: _CgroupFiles) -> int:
    """Return the bytes of a group that the kernel cannot free at once: usage without inactive file pages."""
    stat = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    return max(0, int(_read(group / files.usage) or 0) - int(stat.get(files.cache, 0)))


def _stack_bytes(root: Path) -> int:
    """Return the addresses that the stacks of a job's threads take."""
    torch = sys.modules.get("torch")
    num_threads = num_cores() if torch is None else torch.get_num_threads()
    return num_threads * (_soft_limit(root, "Max stack size") or _STACK_BYTES)


def _soft_limit(root: Path, name: str) -> int | None:
    """Return a soft limit of `proc/self/limits`, which is the one enforced; None for "unlimited" and off Linux."""
    found = re.search(rf"^{name}\s+(\d+)\s", _read(root / "proc/self/limits"), re.MULTILINE)
    return int(found[1]) if found else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # missing, not readable for this user, or another system
        return ""
