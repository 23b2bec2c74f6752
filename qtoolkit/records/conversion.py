"""Record that a quantized model was written in another format."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.files import shortened
from qtoolkit.records.base import Record, Row, note_rows, row_if
from qtoolkit.units import format_bytes, format_seconds

_SAME = "the same codes, scales and zero points"
_ROUNDED = "the same codes, scales or minima rounded"


@dataclass(frozen=True)
class Conversion(Record):
    """Describe a model whose codes another format stores now.

    Attributes:
        model: the folder or Hub id that was converted.
        commit_hash: its commit on the Hub; None for a folder.
        source_format, format: the formats before and after; where a format has several layouts, the layout.
        method: the method that chose the codes.
        num_layers: number of quantized layers.
        disk_before, disk_after: bytes of the weight files.
        readers: the programs other than qtoolkit that run the result; empty where none is known.
        notes: what was decided or left out, one line each.
        path: the folder of the result.
        seconds: how long it took.
        lossy: whether scales, or the minima of asymmetric codes, were rounded, as the notes tell.
    """

    added_fields: ClassVar[frozenset[str]] = frozenset({"lossy"})

    model: str
    commit_hash: str | None
    source_format: str
    format: str
    method: str
    num_layers: int
    disk_before: int
    disk_after: int
    readers: str
    notes: tuple[str, ...]
    path: str
    seconds: float
    lossy: bool = False

    def headline(self) -> str:
        kept = (
            "the same matrices"
            if self._is_adapter
            else "rounded where it asks for it"
            if self.lossy
            else "the same codes"
        )
        sizes = f"{format_bytes(self.disk_before)} to {format_bytes(self.disk_after)} on disk"
        if self.disk_after > self.disk_before and not self._is_adapter:
            sizes += f" (larger, since {self.format} stores more for the same codes, such as scales or minima)"
        written = f"{self.source_format} to {self.format}, {kept}: {sizes}; saved to {shortened(self.path)}."
        return f"{written} Not verified yet: %qverify or qt.verify does it."

    @property
    def _is_adapter(self) -> bool:
        return self.source_format == "peft"

    @property
    def _same(self) -> str:
        if self._is_adapter:
            return "the same matrices"
        return _ROUNDED if self.lossy else _SAME

    @property
    def _layers(self) -> str:
        return "layers of the adapter" if self._is_adapter else "quantized layers"

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("model", shortened(self.model)),
            *row_if("commit", self.commit_hash),
            Row("method", self.method),
            Row("format before", self.source_format),
            Row("format after", self.format, self._same),
            Row(self._layers, str(self.num_layers)),
            Row("on disk before", format_bytes(self.disk_before)),
            Row("on disk after", format_bytes(self.disk_after)),
            *row_if("run by", self.readers),
            *note_rows(self.notes),
            Row("saved to", shortened(self.path)),
            Row("whole job", format_seconds(self.seconds)),
        )
