"""Record the memory, disks and speed of a machine, this one or another that a job is planned for."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row, size_row
from qtoolkit.units import format_bytes

# The name of the machine that this process runs on.
THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Speed(Record):
    """Hold the speed of a machine; a figure is 0 if it is not known.

    Attributes:
        multiply: floating-point operations per second of a matrix product in the model's 16-bit type.
        multiply32: the same in float32.
        memory: bytes per second read from main memory.
        disk: bytes per second written to the disk and synced.
        network: bytes per second received.
        source: where the figures are from.
    """

    multiply: float = 0.0
    multiply32: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    network: float = 0.0
    source: str = ""

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("products, 16 bits", f"{self.multiply / 1e9:.0f} GFLOP/s", self.source),
            Row("products, 32 bits", f"{self.multiply32 / 1e9:.0f} GFLOP/s"),
            Row("memory", f"{format_bytes(round(self.memory))}/s"),
            Row("disk", f"{format_bytes(round(self.disk))}/s"),
        )


@dataclass(frozen=True)
class Machine(Record):
    """Describe what a machine offers to a job.

    Attributes:
        name: `THIS_MACHINE`, or a profile's name.
        memory: bytes of main memory that a job can use, within the limits of containers: for this machine what is free
            plus what this process holds, for a profile what a fresh session leaves.
        vram: usable bytes of each GPU's memory.
        has_bfloat16: whether its first GPU computes in bfloat16.
        cache_disk: free bytes on the disk of the Hub's cache; None if it is not known.
        output_disk: free bytes on the disk of the results; None if it is not known.
        one_disk: whether both are the same disk.
        speed: its speed.
        limited_by: the `ulimit` that bounds `memory`, "ulimit -v 4000000"; empty if none does.
        largest_file: the largest size of a file in bytes; None without a limit.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"limited_by", "largest_file"})

    name: str
    memory: int
    vram: tuple[int, ...] = ()
    has_bfloat16: bool = True
    cache_disk: int | None = None
    output_disk: int | None = None
    one_disk: bool = True
    speed: Speed = Speed()
    limited_by: str = ""
    largest_file: int | None = None

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("machine", self.name),
            Row("memory", format_bytes(self.memory), self.limited_by),
            *(Row(f"GPU {index}", format_bytes(size)) for index, size in enumerate(self.vram)),
            *size_row("disk for downloads", self.cache_disk),
            *size_row("disk for results", self.output_disk),
        )
