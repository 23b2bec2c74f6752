"""Judge whether a machine has what a plan needs: which phase lacks what, and by how much."""

from dataclasses import replace

from qtoolkit.errors import DiskFullError, InsufficientMemoryError
from qtoolkit.records import Machine, Plan
from qtoolkit.stream.writing import MAX_SHARD_BYTES
from qtoolkit.units import format_bytes

# A job that uses a larger share of a resource than this may fail because of what else the machine does.
_TIGHT = 0.9


def judge(plan: Plan, machine: Machine, *, saves: bool) -> Plan:
    """Return a plan with its problems on a machine.

    Args:
        plan: a plan with its phases.
        machine: the machine that the job would run on.
        saves: whether the result is written to the disk.
    """
    problems = []
    tight = []
    vram = vram_of(machine, plan.device)
    downloaded = sum(phase.disk for phase in plan.phases if phase.name == "download")
    fullest_disk, written = _most_disk(plan) if saves else ("save", 0)
    within = f" within {machine.limited_by}" if machine.limited_by else ""
    temporary = max((phase.temporary for phase in plan.phases), default=0)
    one_file = max(min(plan.disk_after, MAX_SHARD_BYTES), temporary) if saves else 0
    needs = (
        (f"memory{within}", _fullest(plan, "peak_rss"), plan.peak_rss, machine.memory),
        (f"memory on {plan.device}", _fullest(plan, "peak_vram"), plan.peak_vram, vram),
        ("disk for downloads", "download", downloaded, machine.cache_disk),
        ("disk for the result", fullest_disk, written + (downloaded if machine.one_disk else 0), machine.output_disk),
        ("disk for one file, by ulimit -f", "save", one_file, machine.largest_file),
    )
    for what, phase, needed, free in needs:
        if free is None or not needed:
            continue
        figures = f"{format_bytes(needed)} of {format_bytes(free)}"
        if needed > free:
            problems.append(f"{what}: {format_bytes(needed - free)} short in the phase {phase}, needs {figures}")
        elif needed > _TIGHT * free:
            tight.append(f"{what}: {figures} in the phase {phase}")
    return replace(plan, machine=machine, problems=tuple(problems), tight=tuple(tight))


def vram_of(machine: Machine | None, device: str) -> int | None:
    """Return the free bytes of a machine's device, "cuda:0"; None for the CPU, or where that is not known."""
    index = int(device.partition(":")[2] or 0)
    return machine.vram[index] if machine and device != "cpu" and index < len(machine.vram) else None


def check_fits(plan: Plan, *, in_parts: bool = False) -> None:
    """Refuse a job that needs more memory or disk than the machine has.

    Args:
        plan: of the job.
        in_parts: whether workers make the result part by part: no process holds it then, and disks alone count.

    Raises:
        InsufficientMemoryError: main memory or a GPU's memory is too small.
        DiskFullError: a disk is too small.
    """
    if in_parts:
        plan = replace(plan, problems=tuple(problem for problem in plan.problems if problem.startswith("disk")))
    if plan.fits:
        return
    what = f"{plan.method} of {plan.source.name} does not fit {plan.machine.name if plan.machine else ''}"
    fitting = [advice.change for advice in plan.advice if advice.fits]
    remedy = "raise that limit" if "ulimit" in plan.problems[0] else "free some"
    way = f"these would fit: {'; '.join(fitting)}" if fitting else f"{remedy}, or take a smaller model"
    kind = DiskFullError if plan.problems[0].startswith("disk") else InsufficientMemoryError
    raise kind(f"{what} ({'; '.join(plan.problems)}): {way}")


def _most_disk(plan: Plan) -> tuple[str, int]:
    """Return the phase after the download in which most is on the disk, and these bytes, temporary files included."""
    kept = 0
    most = ("save", 0)
    for phase in plan.phases:
        if phase.name != "download":
            kept += phase.disk
            most = max(most, (phase.name, kept + phase.temporary), key=lambda one: one[1])
    return most


def _fullest(plan: Plan, peak: str) -> str:
    """Return the name of the phase with the highest peak: "peak_rss" or "peak_vram"."""
    return max(plan.phases, key=lambda phase: getattr(phase, peak)).name
