"""What a running job says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row

PHASES = ("download", "load", "measure", "calibrate", "quantize", "save", "evaluate", "compare", "verify", "push")


@dataclass(frozen=True)
class ProgressEvent(Record):
    """One step of a job, given to `on_progress`.

    Attributes:
        phase: one of `PHASES`.
        done: units done so far in this phase.
        total: units of the whole phase; 0 when it is not known.
        unit: what is counted: "bytes", "layers", "blocks", "tokens", "windows", "runs", "configs" or
            "checks".
        detail: what was just done, a file or layer name.
    """

    schema_version: ClassVar[int] = 1

    phase: str
    done: int
    total: int
    unit: str
    detail: str = ""

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.phase, f"{self.done} of {self.total} {self.unit}", self.detail),)


OnProgress = Callable[[ProgressEvent], None]


def ignore_progress(event: ProgressEvent) -> None:
    """Where nobody wants to be told."""
