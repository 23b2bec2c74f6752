"""What really happened: a model's footprint, peaks of memory, bytes on disk, and this machine."""

from typing import TYPE_CHECKING, Any

from qtoolkit.measure.disk import disk_size, free_disk
from qtoolkit.measure.guard import check_room, explained, guarded
from qtoolkit.measure.machine import available_memory, devices, examine, hardware, memory_limit, this_machine, versions
from qtoolkit.measure.peak import PeakMeter, allocated_vram, measure_peak, resident_memory
from qtoolkit.measure.speed import measure_speed

if TYPE_CHECKING:
    from qtoolkit.measure.footprint import memory_footprint, num_parameters

__all__ = [
    "PeakMeter",
    "allocated_vram",
    "available_memory",
    "check_room",
    "devices",
    "disk_size",
    "examine",
    "explained",
    "free_disk",
    "guarded",
    "hardware",
    "measure_peak",
    "measure_speed",
    "memory_footprint",
    "memory_limit",
    "num_parameters",
    "resident_memory",
    "this_machine",
    "versions",
]


def __getattr__(name: str) -> Any:
    """Return the footprint on demand: it needs torch, and a meter must not add torch to the memory that it measures."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qtoolkit.measure import footprint

    return getattr(footprint, name)
