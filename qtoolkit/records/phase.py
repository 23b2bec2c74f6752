"""What each phase of a job takes: memory, disk and time, every part with its name and where the figure is from."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes, format_seconds


@dataclass(frozen=True)
class Term(Record):
    """One part of a sum.

    Attributes:
        name: what it is.
        size: bytes.
        source: where the figure is from.
    """

    schema_version: ClassVar[int] = 1

    name: str
    size: int
    source: str

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, format_bytes(self.size), self.source),)


@dataclass(frozen=True)
class PhasePlan(Record):
    """One phase of a job.

    Attributes:
        name: one of `qtoolkit.records.event.PHASES`.
        memory: what is resident in main memory at the phase's fullest moment; the parts add up to `peak_rss`.
        vram: the same of the GPU's memory; empty on the CPU.
        disk: bytes that it leaves on the disk.
        bytes_moved: bytes that it reads, writes or receives.
        seconds: the shortest and the longest time that it should take; empty where nothing is known of the machine.
    """

    schema_version: ClassVar[int] = 1

    name: str
    memory: tuple[Term, ...]
    vram: tuple[Term, ...] = ()
    disk: int = 0
    bytes_moved: int = 0
    seconds: tuple[float, ...] = ()

    @property
    def peak_rss(self) -> int:
        """The most bytes of main memory in use at one time."""
        return sum(term.size for term in self.memory)

    @property
    def peak_vram(self) -> int:
        """The most bytes of the GPU's memory in use at one time."""
        return sum(term.size for term in self.vram)

    def rows(self) -> tuple[Row, ...]:
        return (
            Row(self.name, self.summary()),
            *(Row(f"  {term.name}", format_bytes(term.size), term.source) for term in self.memory),
            *(Row(f"  {term.name} (GPU)", format_bytes(term.size), term.source) for term in self.vram),
        )

    def summary(self) -> str:
        """Its figures in one line."""
        parts = [f"memory {format_bytes(self.peak_rss)}"]
        if self.vram:
            parts.append(f"GPU {format_bytes(self.peak_vram)}")
        if self.disk:
            parts.append(f"disk {format_bytes(self.disk)}")
        if self.seconds:
            parts.append(f"{format_seconds(min(self.seconds))} to {format_seconds(max(self.seconds))}")
        return ", ".join(parts)
