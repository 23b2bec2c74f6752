"""What a machine has, this one or another that is planned for."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_bytes

# The name of the machine that this process runs on.
THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Speed(Record):
    """How fast a machine is; 0 where it is not known.

    Attributes:
        multiply: floating-point operations a second of a product of matrices in the model's 16-bit type.
        multiply32: the same in float32.
        memory: bytes a second that are read from main memory.
        disk: bytes a second that are written to the disk and synced.
        network: bytes a second that are received.
        source: where the figures are from.
    """

    schema_version: ClassVar[int] = 1

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
    """A machine as a job finds it.

    Attributes:
        name: `THIS_MACHINE`, or a profile's name.
        memory: bytes of main memory that processes can have, within the limits of containers: for this machine what is
            free and what this process has, for a profile what a fresh session leaves.
        vram: bytes of each GPU's memory that can be had.
        has_bfloat16: whether its first GPU computes in bfloat16.
        cache_disk: bytes free where downloads are kept; None where it is not known.
        output_disk: bytes free where results are written; None where it is not known.
        one_disk: whether both are the same.
        speed: how fast it is.
        limited_by: the `ulimit` that bounds `memory`, "ulimit -v 4000000"; empty where none does.
        largest_file: bytes that one file may have; None where nothing bounds it.
    """

    schema_version: ClassVar[int] = 1
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
            *(Row(f"disk for {what}", format_bytes(size)) for what, size in self._disks() if size is not None),
        )

    def _disks(self) -> tuple[tuple[str, int | None], ...]:
        return ("downloads", self.cache_disk), ("results", self.output_disk)
