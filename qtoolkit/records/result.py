"""Record what a job did."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from qtoolkit.files import shortened
from qtoolkit.records.base import Row, note_rows
from qtoolkit.records.calibration import CalibrationReport
from qtoolkit.records.layer_plan import JobRecord
from qtoolkit.records.memory import MemoryReport
from qtoolkit.units import format_seconds


@dataclass(frozen=True)
class QuantizationReport(JobRecord):
    """Describe a quantized model without holding it: what a magic returns and a model card is made from.

    Attributes:
        source, method, settings, device, layers, skipped, warnings: as in `JobRecord`, with "auto" resolved in the
            settings.
        notes: decisions of the job that are not in the settings; one line each.
        memory: before and after.
        path: the folder it was saved to; None if it was not saved.
        seconds: how long the whole job took.
        calibration: how it was calibrated; None for a method without calibration, and for a model that was loaded.
    """

    schema_version: ClassVar[int] = 2

    notes: tuple[str, ...]
    memory: MemoryReport
    path: str | None
    seconds: float
    calibration: CalibrationReport | None = None

    def rows(self) -> tuple[Row, ...]:
        return (
            *self.share_rows(),
            *self.config_rows(),
            *self.memory.rows(),
            *self.layer_rows(),
            *(self.calibration.rows() if self.calibration else ()),
            *note_rows(self.notes),
            Row("saved to", shortened(self.path) if self.path else "not saved"),
            Row("whole job", format_seconds(self.seconds)),
        )

    def headline(self) -> str:
        saved = f"saved to {shortened(self.path)}" if self.path else "not saved"
        parts = [self.memory.sizes(), f"{self.count()} quantized", saved]
        return f"{'; '.join(filter(None, parts))}. Quality is not measured yet: %qeval or qt.evaluate does it."

    def picture(self) -> str:
        return self.memory.picture()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse what a record lacks; to whom it passes for the model (`q = %quantize ...`), say where that is."""
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            if name in ("generate", "model", "save", "tokenizer"):
                loaded = f"qt.load({shortened(self.path)!r})" if self.path else "qt.load, of a folder that was saved,"
                message += f": it tells of the model; `--into q` keeps the model as q, {loaded} loads it"
            raise AttributeError(message, name=name, obj=self)
