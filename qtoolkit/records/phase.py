"""Record what each phase of a planned job needs: memory by its parts, disk and time."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes, format_seconds


@dataclass(frozen=True)
class Term(Record):
    """Hold one part of a phase's memory.

    Attributes:
        name: what takes the memory.
        size: bytes.
        source: where the figure is from.
    """

    name: str
    size: int
    source: str

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.name, format_bytes(self.size), self.source),)


@dataclass(frozen=True)
class PhasePlan(Record):
    """Describe what one phase of a job needs.

    Attributes:
        name: one of `qtoolkit.records.event.PHASES`; for `Plan.inference`, "inference with 4096 tokens".
        memory: parts of main memory resident at the phase's peak; their sum is `peak_rss`.
        vram: the same for the GPU's memory; empty on the CPU.
        disk: bytes that it leaves on the disk.
        temporary: bytes of files that it writes to the disk and removes again.
        bytes_moved: bytes that it reads, writes or receives.
        seconds: the shortest and the longest expected time; empty if the machine's speed is not known.
    """

    name: str
    memory: tuple[Term, ...]
    vram: tuple[Term, ...] = ()
    disk: int = 0
    bytes_moved: int = 0
    seconds: tuple[float, ...] = ()
    temporary: int = 0

    added_fields: ClassVar[frozenset[str]] = frozenset({"temporary"})

    @property
    def peak_rss(self) -> int:
        """Return the most bytes of main memory in use at one time."""
        return sum(term.size for term in self.memory)

    @property
    def peak_vram(self) -> int:
        """Return the most bytes of the GPU's memory in use at one time."""
        return sum(term.size for term in self.vram)

    def rows(self) -> tuple[Row, ...]:
        return (
            Row(self.name, self.summary()),
            *(Row(f"  {term.name}", format_bytes(term.size), term.source) for term in self.memory),
            *(Row(f"  {term.name} (GPU)", format_bytes(term.size), term.source) for term in self.vram),
        )

    def summary(self) -> str:
        """Return the figures in one line."""
        parts = [f"memory {format_bytes(self.peak_rss)}"]
        if self.vram:
            parts.append(f"GPU {format_bytes(self.peak_vram)}")
        if self.disk:
            parts.append(f"disk {format_bytes(self.disk)}")
        if self.temporary:
            parts.append(f"temporary files {format_bytes(self.temporary)}")
        if self.seconds:
            parts.append(f"{format_seconds(min(self.seconds))} to {format_seconds(max(self.seconds))}")
        return ", ".join(parts)
