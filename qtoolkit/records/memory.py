"""What a job or a cell really needed."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records import html
from qtoolkit.records.base import Record, Row
from qtoolkit.units import bits_per_weight, format_bits, format_bytes, format_seconds


@dataclass(frozen=True)
class PeakMemory(Record):
    """Memory that this process used while something ran. All sizes in bytes.

    Attributes:
        rss_before: resident memory at the start.
        rss_after: resident memory at the end.
        peak_rss: the most resident memory in between.
        peak_rss_source: how the peak was found: the kernel's high-water mark, or samples.
        peak_vram: the most CUDA memory allocated in between, each device's own peak, summed; None without CUDA.
        vram_after: CUDA memory allocated at the end; None without CUDA.
        vram_reserved: CUDA memory that torch held reserved at the end; None without CUDA.
        seconds: how long it ran.
        peak_vram_source: how that peak was found: the mark of torch's allocator, or samples; "" without CUDA.
    """

    schema_version: ClassVar[int] = 1

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
        """The rows, with what a plan had said of the peak beside it."""
        notes = [self.peak_rss_source, _predicted(predicted_peak_rss)]
        rows = [
            Row("resident before", format_bytes(self.rss_before)),
            Row("resident after", format_bytes(self.rss_after)),
            Row("peak resident", format_bytes(self.peak_rss), ", ".join(filter(None, notes))),
        ]
        if self.peak_vram is not None:
            rows.append(Row("peak CUDA allocated", format_bytes(self.peak_vram), self.peak_vram_source))
        if self.vram_after is not None and self.vram_reserved is not None:
            note = f"{format_bytes(self.vram_reserved)} reserved"
            rows.append(Row("CUDA allocated after", format_bytes(self.vram_after), note))
        return (*rows, Row("time", format_seconds(self.seconds)))


@dataclass(frozen=True)
class MemoryReport(Record):
    """Memory and disk before and after, beside what the plan had predicted. All sizes in bytes.

    Attributes:
        num_parameters: parameters of the model, tied ones counted once.
        footprint_before: parameters and buffers of the model as it was.
        footprint_after: every tensor that stays in memory, scales and tables included.
        predicted_footprint_after: what the plan had said; None when there was no plan.
        disk_before: weight files of the model as it was; None for a model in memory.
        disk_after: weight files written; None when nothing was saved.
        predicted_disk_after: what the plan had said of the weight files; None when there was no plan.
        predicted_peak_rss: what the plan had said of `peak.peak_rss`, shown beside it; None when there was no plan.
        peak: what the process used while the job ran; None when no job was measured.
    """

    schema_version: ClassVar[int] = 1

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
        """The most resident memory of the process while the job ran, in bytes."""
        return self.peak.peak_rss if self.peak else None

    @property
    def peak_vram(self) -> int | None:
        """The most CUDA memory allocated while the job ran, in bytes; None without CUDA."""
        return self.peak.peak_vram if self.peak else None

    @property
    def ratio(self) -> float:
        """`footprint_before / footprint_after`; 1 for a model without weights."""
        return self.footprint_before / self.footprint_after if self.footprint_after else 1.0

    @property
    def bits_per_weight(self) -> float:
        """Bits per parameter of the whole model in memory, what is not quantized included."""
        return bits_per_weight(self.footprint_after, self.num_parameters)

    def rows(self) -> tuple[Row, ...]:
        rows = [
            Row("footprint before", format_bytes(self.footprint_before)),
            Row("footprint after", format_bytes(self.footprint_after), _predicted(self.predicted_footprint_after)),
        ]
        if self.footprint_before and self.footprint_after:
            rows.append(Row("ratio", _comparison(self.ratio), format_bits(self.bits_per_weight)))
        if self.disk_before is not None:
            rows.append(Row("on disk before", format_bytes(self.disk_before)))
        if self.disk_after is not None:
            rows.append(Row("on disk after", format_bytes(self.disk_after), _predicted(self.predicted_disk_after)))
        return (*rows, *(self.peak.rows_beside(self.predicted_peak_rss) if self.peak else ()))

    def picture(self) -> str:
        items = [("footprint before", self.footprint_before), ("footprint after", self.footprint_after)]
        return html.bars("Memory footprint before and after", [(name, n, format_bytes(n)) for name, n in items])


def _comparison(ratio: float) -> str:
    return f"{ratio:.2f} times smaller" if ratio >= 1 else f"{1 / ratio:.2f} times larger"


def _predicted(count: int | None) -> str:
    return "" if count is None else f"predicted {format_bytes(count)}"
