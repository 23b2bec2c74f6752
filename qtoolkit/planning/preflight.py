"""Whether a planned job fits this machine; asked before any weight is read."""

from qtoolkit.errors import DiskFullError, InsufficientMemoryError
from qtoolkit.records import Plan
from qtoolkit.units import format_bytes

# Config, tokenizer and file headers; a vocabulary of 256,000 words takes about 20 MB of JSON.
SIDE_FILES_BYTES = 40_000_000


def check_fits(plan: Plan, *, rss: int, memory: int, vram: int | None, disk: int | None) -> None:
    """Refuse a job that cannot end well here.

    Args:
        plan: what will be done.
        rss: bytes that this process has resident now.
        memory: bytes of main memory that it can still have.
        vram: bytes free on the plan's CUDA device; None for a job on the CPU.
        disk: bytes free where the result will be written; None when it is not.

    Raises:
        InsufficientMemoryError: main memory or CUDA memory is too small.
        DiskFullError: the disk is too small.
    """
    what = f"{plan.method} of {plan.source.name}"
    needed = plan.peak_rss - rss
    if needed > memory:
        raise InsufficientMemoryError(
            f"{what} needs {format_bytes(needed)} of memory, {format_bytes(memory)} is available: "
            "free some, take a method of fewer bits, or a smaller model"
        )
    working = max(layer.working_bytes for layer in (*plan.layers, *plan.skipped))
    if vram is not None and plan.footprint_after + working > vram:
        raise InsufficientMemoryError(
            f"{what} needs {format_bytes(plan.footprint_after + working)} on {plan.device}, "
            f"{format_bytes(vram)} is free: "
            "free some, take a method of fewer bits, or device='cpu'"
        )
    if disk is not None and plan.disk_after + SIDE_FILES_BYTES > disk:
        raise DiskFullError(
            f"{what} needs {format_bytes(plan.disk_after + SIDE_FILES_BYTES)} on the disk, "
            f"{format_bytes(disk)} is free: "
            "name an output elsewhere, or free some"
        )
