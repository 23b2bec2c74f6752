"""What `ulimit` allows is seen: a tree of `proc` as Linux has it, and this very process under limits of its own."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import qtoolkit as qt
from qtoolkit.errors import InsufficientMemoryError
from qtoolkit.measure.guard import check_room
from qtoolkit.measure.host import examine, this_machine
from qtoolkit.measure.memory_limits import available_memory, largest_file, limited_by, memory_limit, resident_room
from qtoolkit.records import Speed

MB = 1_000_000
KIB = 1024
STATUS = f"VmPeak:\t 9999999 kB\nVmSize:\t {300_000} kB\nVmRSS:\t 5 kB\nVmData:\t {100_000} kB\n"


def limits(**soft: int) -> str:
    """`proc/self/limits` with some soft limits; hard ones are larger, and do not count."""
    names = {"addresses": "Max address space", "data": "Max data size", "file": "Max file size"}
    lines = ["Limit                     Soft Limit           Hard Limit           Units     "]
    for key, name in names.items():
        lines.append(f"{name:<26}{soft.get(key, 'unlimited'):<21}{'unlimited':<21}bytes     ")
    return "\n".join(lines) + "\n"


def tree(root: Path, **soft: int) -> Path:
    folder = root / "proc" / "self"
    folder.mkdir(parents=True)
    (folder / "limits").write_text(limits(**soft))
    (folder / "status").write_text(STATUS)
    return root


@pytest.mark.parametrize(
    ("soft", "limit", "available", "command"),
    [
        ({"addresses": 400_000 * KIB}, 400_000 * KIB, 100_000 * KIB, "ulimit -v 400000"),
        ({"data": 130_000 * KIB}, 130_000 * KIB, 30_000 * KIB, "ulimit -d 130000"),
        ({"addresses": 310_000 * KIB, "data": 130_000 * KIB}, 130_000 * KIB, 10_000 * KIB, "ulimit -v 310000"),
        ({"addresses": 200_000 * KIB}, 200_000 * KIB, 0, "ulimit -v 200000"),
    ],
    ids=["addresses", "data", "both: one is smaller, the other leaves less", "more used than allowed"],
)
def test_limits(tmp_path: Path, soft: dict[str, int], limit: int, available: int, command: str) -> None:
    root = tree(tmp_path, **soft)
    assert (memory_limit(root), available_memory(root), limited_by(root)) == (limit, available, command)
    room, by = resident_room(root)
    assert by
    assert room < available or room == available == 0


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    root = tree(tmp_path)
    assert memory_limit(root) == psutil.virtual_memory().total
    assert (limited_by(root), resident_room(root)[1], largest_file(root)) == ("", "", None)


def test_a_limit_above_the_machines_memory_does_not_count(tmp_path: Path) -> None:
    root = tree(tmp_path, addresses=2**50)
    assert memory_limit(root) == psutil.virtual_memory().total
    assert limited_by(root) == ""


def test_the_largest_file_is_told(tmp_path: Path) -> None:
    assert largest_file(tree(tmp_path, file=5_000 * KIB)) == 5_000 * KIB


@contextmanager
def limited(kind: int, size: int) -> Iterator[None]:
    """This process under a soft limit."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.fixture
def addresses() -> int:
    """Bytes of addresses that this process has, and 500 MB."""
    size: int = psutil.Process().memory_info().vms
    return (size + 500 * MB) // KIB * KIB


def test_a_doctor_and_a_plan_name_the_limit(addresses: int, tiny_llama: Path, tmp_path: Path) -> None:
    command = f"ulimit -v {addresses // KIB}"
    with limited(resource.RLIMIT_AS, addresses):
        doctor, machine = examine({}), this_machine(tmp_path, Speed())
        plan = qt.plan(tiny_llama, "nf4", device="cpu")
    assert doctor.limited_by == machine.limited_by == command
    assert doctor.memory_limit <= addresses and 0 < doctor.memory_available < 510 * MB
    assert f"by {command}" in str(doctor) and command in str(machine)
    assert plan.machine is not None and plan.machine.limited_by == command
    after = qt.plan(tiny_llama, "nf4", device="cpu")
    assert after.machine is not None and command not in str(after.machine)


def test_what_does_not_fit_names_the_limit(tiny_llama: Path) -> None:
    qt.plan(tiny_llama, "nf4", device="cpu")
    size = psutil.Process().memory_info().vms + 120 * MB
    with limited(resource.RLIMIT_AS, size):
        plan = qt.plan(tiny_llama, "nf4", device="cpu")
    assert plan.verdict == "does not fit"
    assert plan.problems[0].startswith(f"memory within ulimit -v {size // KIB}: ")


def test_room_counts_within_a_limit_alone(addresses: int) -> None:
    check_room(10**15, "loading", "free some")
    told = r"loading needs 600\.0 MB of memory, and ulimit -v \d+ leaves .*: raise"
    with limited(resource.RLIMIT_AS, addresses):
        check_room(10 * MB, "loading", "free some")
        with pytest.raises(InsufficientMemoryError, match=told):
            check_room(600 * MB, "loading", "free some")
