"""The memory that a container is allowed, from Linux control groups of version 2 and version 1."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Allowance(NamedTuple):
    """What one control group allows and holds, in bytes. A process is bound by its own group and all above it."""

    limit: int
    used: int


class _Layout(NamedTuple):
    """Where a version of control groups keeps its figures."""

    mount: str
    limit: str
    usage: str
    cache: str


_V2 = _Layout("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _Layout("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def allowances(root: Path) -> Iterator[Allowance]:
    """The limits of this process's control groups, innermost first; none outside a container, and none off Linux.

    Args:
        root: where `proc/self/cgroup` and `sys/fs/cgroup` are found: `/`.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        # "0::/user.slice" for version 2, "4:memory:/docker/1f2e" for version 1
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            yield from _walk_up(root, _V2 if number == "0" else _V1, path)


def _walk_up(root: Path, layout: _Layout, path: str) -> Iterator[Allowance]:
    """From the group at `path` to the mount; in a container `path` can be the host's, and only the mount is there."""
    group = root / layout.mount / path.strip("/")
    for folder in (group, *group.parents):
        limit = _read(folder / layout.limit).strip()
        if limit.isdecimal():  # "max" without a limit; empty where the group is not visible
            yield Allowance(int(limit), _used(folder, layout))


def _used(folder: Path, layout: _Layout) -> int:
    """What the group holds and the kernel could not take back at once: usage without inactive file pages."""
    stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
    return max(0, int(_read(folder / layout.usage) or 0) - int(stat.get(layout.cache, 0)))


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not there, or not for this user
        return ""
