"""Record what this machine is and which methods run on it: the text for a bug report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes, format_items


@dataclass(frozen=True)
class Doctor(Record):
    """Hold versions, devices, free memory and disk, and which methods run on this machine.

    Attributes:
        versions: package -> version, or "not installed".
        platform: operating system, processor and Python.
        devices: one line for each device, with its memory.
        memory_available: bytes that a new job can use, within the limits of containers.
        memory_limit: bytes that this process may use at most.
        disk_free: folder -> free bytes of its disk.
        methods: method -> "ready", or the command that makes it so.
        conflicts: installed packages that do not work together, and what to do, one line each.
        limited_by: the `ulimit` that leaves the least memory, "ulimit -v 4000000"; empty if none does.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"conflicts", "limited_by"})

    versions: Mapping[str, str]
    platform: str
    devices: tuple[str, ...]
    memory_available: int
    memory_limit: int
    disk_free: Mapping[str, int]
    methods: Mapping[str, str]
    limited_by: str = ""
    conflicts: tuple[str, ...] = ()

    def headline(self) -> str:
        ready = [name for name, state in self.methods.items() if state == "ready"]
        missing = [name for name in self.methods if name not in ready]
        rest = f"; {', '.join(missing)} not yet: below stands what to install" if missing else ""
        methods = f"{len(ready)} of {format_items(len(self.methods), 'method')} run here"
        return f"{methods}{rest}. {format_bytes(self.memory_available)} of memory can be used."

    def rows(self) -> tuple[Row, ...]:
        limit = f"of {format_bytes(self.memory_limit)}{', by ' if self.limited_by else ''}{self.limited_by}"
        return (
            *(Row("conflict", conflict) for conflict in self.conflicts),
            Row("platform", self.platform),
            *(Row("device", device) for device in self.devices),
            Row("memory available", format_bytes(self.memory_available), limit),
            *(Row("disk free", format_bytes(free), folder) for folder, free in self.disk_free.items()),
            *(Row(name, version) for name, version in self.versions.items()),
            *(Row(f"method {name}", state) for name, state in self.methods.items()),
        )
