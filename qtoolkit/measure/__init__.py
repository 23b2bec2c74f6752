"""Measure a model's footprint, peaks of memory and bytes on disk, and describe this machine."""

from typing import TYPE_CHECKING, Any

from qtoolkit.measure.disk import disk_size, free_disk
from qtoolkit.measure.guard import check_room, explained, guarded
from qtoolkit.measure.host import devices, examine, hardware, this_machine, versions
from qtoolkit.measure.memory_limits import available_memory, memory_limit
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
    """Import the footprint's functions on demand: they need torch, and a meter must not add torch to what it measures.

    Raises:
        AttributeError: the package exports no such name.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from qtoolkit.measure import footprint

    return getattr(footprint, name)
