"""The container's limits are respected: trees of control groups as Linux lays them out, in a folder of our own."""

from pathlib import Path

import psutil
import pytest

from qtoolkit.measure.memory_limits import available_memory, memory_limit

MB = 1_000_000
UNLIMITED_V1 = 9223372036854771712  # what version 1 shows where there is no limit


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def v2(folder: str, limit: int | str, current: int, inactive_file: int) -> dict[str, str]:
    stat = f"anon 1\nfile 2\ninactive_file {inactive_file}\nactive_file 5"
    return {f"{folder}/memory.max": str(limit), f"{folder}/memory.current": str(current), f"{folder}/memory.stat": stat}


def v1(folder: str, limit: int, usage: int, inactive_file: int) -> dict[str, str]:
    stat = f"cache 9\ninactive_file 77\ntotal_inactive_file {inactive_file}"
    return {
        f"{folder}/memory.limit_in_bytes": str(limit),
        f"{folder}/memory.usage_in_bytes": str(usage),
        f"{folder}/memory.stat": stat,
    }


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"
# name -> (files, limit, available)
LIMITED = {
    "version 2, a container's own group": (
        {"proc/self/cgroup": "0::/"} | v2(V2, 100 * MB, 60 * MB, 10 * MB),
        *(100 * MB, 50 * MB),
    ),
    "version 2, the limit is on a group above": (
        {"proc/self/cgroup": "0::/user.slice/job"}
        | v2(f"{V2}/user.slice/job", "max", 60 * MB, 0)
        | v2(f"{V2}/user.slice", 200 * MB, 150 * MB, 5 * MB),
        *(200 * MB, 55 * MB),
    ),
    "version 2, one group has the smaller limit and another the less room": (
        {"proc/self/cgroup": "0::/a/b"} | v2(f"{V2}/a/b", 100 * MB, 10 * MB, 0) | v2(f"{V2}/a", 300 * MB, 280 * MB, 0),
        *(100 * MB, 20 * MB),
    ),
    "version 2, more used than allowed": (
        {"proc/self/cgroup": "0::/"} | v2(V2, 100 * MB, 130 * MB, 0),
        *(100 * MB, 0),
    ),
    "version 1": (
        {"proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/docker/1f"}
        | v1(f"{V1}/docker/1f", 100 * MB, 60 * MB, 10 * MB)
        | v1(V1, UNLIMITED_V1, 900 * MB, 0),
        *(100 * MB, 50 * MB),
    ),
    "version 1, a container that shows the host's path": (
        {"proc/self/cgroup": "4:memory:/docker/1f"} | v1(V1, 100 * MB, 60 * MB, 0),
        *(100 * MB, 40 * MB),
    ),
    "both versions mounted, the memory is version 1's": (
        {"proc/self/cgroup": "4:memory:/\n0::/"} | v1(V1, 100 * MB, 60 * MB, 0),
        *(100 * MB, 40 * MB),
    ),
}


@pytest.mark.parametrize(("files", "limit", "available"), LIMITED.values(), ids=LIMITED)
def test_limits(tmp_path: Path, files: dict[str, str], limit: int, available: int) -> None:
    root = write(tmp_path, files)
    assert memory_limit(root) == limit
    assert available_memory(root) == available


UNLIMITED = {
    "no control groups": {},
    "version 2 without a limit": {"proc/self/cgroup": "0::/x"} | v2(f"{V2}/x", "max", 60 * MB, 0),
    "version 1 without a limit": {"proc/self/cgroup": "4:memory:/x"} | v1(f"{V1}/x", UNLIMITED_V1, 60 * MB, 0),
    "a group that is not visible": {"proc/self/cgroup": "0::/../elsewhere"},
}


@pytest.mark.parametrize("files", UNLIMITED.values(), ids=UNLIMITED)
def test_without_a_limit_it_is_the_machines(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, files)
    assert memory_limit(root) == psutil.virtual_memory().total
    assert available_memory(root) == pytest.approx(psutil.virtual_memory().available, abs=2000 * MB)


def test_this_machine() -> None:
    assert 0 < available_memory() <= memory_limit() <= psutil.virtual_memory().total
