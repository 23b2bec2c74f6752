"""Record the memory and disk that a job or a cell used."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from qtoolkit.records import html
from qtoolkit.records.base import Record, Row, size_row
from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_seconds

MEMORY_WORDS = MappingProxyType(
    {
        "footprint": "bytes of all tensors of the model, scales included",
        "resident": "memory of the whole process, with Python and torch",
    }
)


@dataclass(frozen=True)
class PeakMemory(Record):
    """Hold the memory that this process used while something ran. All sizes in bytes.

    Attributes:
        rss_before: resident memory at the start.
        rss_after: resident memory at the end.
        peak_rss: the most resident memory in between.
        peak_rss_source: how the peak was measured: the kernel's high-water mark, or samples.
        peak_vram: the most CUDA memory allocated in between: the sum of each device's own peak; None without CUDA.
        vram_after: CUDA memory allocated at the end; None without CUDA.
        vram_reserved: CUDA memory that torch held reserved at the end; None without CUDA.
        seconds: how long it ran.
        peak_vram_source: how that peak was measured: the mark of torch's allocator, or samples; "" without CUDA.
    """

    rss_before: int
    rss_after: int
    peak_rss: int
    peak_rss_source: str
    peak_vram: int | None
    vram_after: int | None
    vram_reserved: int | None
    seconds: float
    peak_vram_source: str = ""

    def rows(self) -> tuple[Row, ...]:
        return self.rows_beside(predicted_peak_rss=None)

    def rows_beside(self, predicted_peak_rss: int | None) -> tuple[Row, ...]:
        """Return the rows, with the plan's prediction of the peak as a note; None if there was no plan."""
        notes = [self.peak_rss_source, _predicted(predicted_peak_rss)]
        vram_after = None if self.vram_reserved is None else self.vram_after
        return (
            Row("resident before", format_bytes(self.rss_before)),
            Row("resident after", format_bytes(self.rss_after)),
            Row("peak resident", format_bytes(self.peak_rss), ", ".join(filter(None, notes))),
            *size_row("peak CUDA allocated", self.peak_vram, self.peak_vram_source),
            *size_row("CUDA allocated after", vram_after, f"{format_bytes(self.vram_reserved or 0)} reserved"),
            Row("time", format_seconds(self.seconds)),
        )


@dataclass(frozen=True)
class MemoryReport(Record):
    """Hold memory and disk before and after a job, with the plan's predictions. All sizes in bytes.

    Attributes:
        num_parameters: parameters of the model, tied ones counted once.
        footprint_before: parameters and buffers of the original model.
        footprint_after: every tensor that stays in memory, scales and tables included.
        predicted_footprint_after: the plan's prediction; None if there was no plan.
        disk_before: weight files of the original model; None for a model in memory.
        disk_after: weight files written; None if nothing was saved.
        predicted_disk_after: the plan's prediction of the weight files; None if there was no plan.
        predicted_peak_rss: the plan's prediction of `peak.peak_rss`, shown as its note; None if there was no plan.
        peak: memory that the process used while the job ran; None if it was not measured.
    """

    words: ClassVar[Mapping[str, str]] = MEMORY_WORDS

    num_parameters: int
    footprint_before: int
    footprint_after: int
    predicted_footprint_after: int | None = None
    disk_before: int | None = None
    disk_after: int | None = None
    predicted_disk_after: int | None = None
    predicted_peak_rss: int | None = None
    peak: PeakMemory | None = None

    @property
    def peak_rss(self) -> int | None:
        """Return the most resident memory of the process while the job ran, in bytes; None if not measured."""
        return self.peak.peak_rss if self.peak else None

    @property
    def peak_vram(self) -> int | None:
        """Return the most CUDA memory allocated while the job ran, in bytes; None without CUDA."""
        return self.peak.peak_vram if self.peak else None

    @property
    def ratio(self) -> float:
        """Return `footprint_before / footprint_after`; 1 for a model without weights."""
        return self.footprint_before / self.footprint_after if self.footprint_after else 1.0

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per parameter of the whole model in memory, layers that are not quantized included."""
        return bits_per_weight(self.footprint_after, self.num_parameters)

    def rows(self) -> tuple[Row, ...]:
        rows = [
            Row("footprint before", format_bytes(self.footprint_before)),
            Row("footprint after", format_bytes(self.footprint_after), _predicted(self.predicted_footprint_after)),
        ]
        if self.footprint_before and self.footprint_after:
            rows.append(Row("ratio", times_smaller(self.ratio), format_bits(self.bits_per_weight)))
        return (
            *rows,
            *size_row("on disk before", self.disk_before),
            *size_row("on disk after", self.disk_after, _predicted(self.predicted_disk_after)),
            *(self.peak.rows_beside(self.predicted_peak_rss) if self.peak else ()),
        )

    def headline(self) -> str:
        return self.sizes()

    def sizes(self) -> str:
        """Return the footprints and their ratio in one clause: "269.0 MB to 111.7 MB in memory, 2.41 times smaller"."""
        if not self.footprint_before or not self.footprint_after:
            return ""
        if format_bytes(self.footprint_before) == format_bytes(self.footprint_after):
            return f"{format_bytes(self.footprint_after)} in memory"
        return footprints(self.footprint_before, self.footprint_after)

    def picture(self) -> str:
        return footprint_bars(self.footprint_before, self.footprint_after)


def footprint_bars(before: int, after: int) -> str:
    """Return HTML with a bar for each of two footprints, in bytes."""
    items = [("before", before), ("after", after)]
    return html.bars("Memory footprint: all weights of the model", [(name, n, format_bytes(n)) for name, n in items])


def footprints(before: int, after: int) -> str:
    """Return two sizes in bytes and their ratio in one clause: "269.0 MB to 111.7 MB in memory, 2.41 times smaller"."""
    sizes = f"{format_bytes(before)} to {format_bytes(after)} in memory"
    return f"{sizes}, {times_smaller(before / after)}" if before and after else sizes


def times_smaller(ratio: float) -> str:
    """Return a ratio of sizes in words: "2.41 times smaller"."""
    return f"{ratio:.2f} times smaller" if ratio >= 1 else f"{1 / ratio:.2f} times larger"


def _predicted(count: int | None) -> str:
    return "" if count is None else f"predicted {format_bytes(count)}"
