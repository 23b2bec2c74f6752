"""What a job did."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from qtoolkit.files import current_folder
from qtoolkit.records.base import Record, Row
from qtoolkit.records.calibration import CalibrationReport
from qtoolkit.records.memory import MemoryReport
from qtoolkit.records.plan import LayerPlan, layer_rows, settings_rows
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_seconds


@dataclass(frozen=True)
class QuantizationReport(Record):
    """All that is known of a quantized model, without the model: what a magic returns and a card is drawn from.

    Attributes:
        source: the model that was quantized.
        method: the method's name, "nf4".
        settings: the config's fields as JSON-ready values, "auto" resolved.
        device: where the model lives.
        layers: the modules that were quantized.
        skipped: the modules that stay as they were, each with its reason.
        notes: what was decided on the way and is not in the settings; one line each.
        memory: before and after.
        path: the folder it was saved to; None when it was not saved.
        seconds: how long the whole job took.
        calibration: how it was calibrated; None for a method without calibration, and for a model read back.
    """

    schema_version: ClassVar[int] = 2

    source: ModelSource
    method: str
    settings: Mapping[str, Any]
    device: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[LayerPlan, ...]
    notes: tuple[str, ...]
    memory: MemoryReport
    path: str | None
    seconds: float
    calibration: CalibrationReport | None = None

    def rows(self) -> tuple[Row, ...]:
        return (
            *self.source.rows()[:1],
            *settings_rows(self.method, self.settings),
            Row("device", self.device),
            *self.memory.rows(),
            *layer_rows(self.layers, self.skipped),
            *(self.calibration.rows() if self.calibration else ()),
            *(Row("note", note) for note in self.notes),
            Row("saved to", _from_here(self.path) if self.path else "not saved"),
            Row("whole job", format_seconds(self.seconds)),
        )

    def picture(self) -> str:
        return self.memory.picture()


def _from_here(path: str) -> str:
    """A path as one would type it here: a notebook that is shared then shows no folders of its author."""
    here = current_folder()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
