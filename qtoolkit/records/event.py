"""Record the progress of a running job."""

from collections.abc import Callable
from dataclasses import dataclass

from qtoolkit.records.base import Record, Row

PHASES = (
    "download",
    "load",
    "measure",
    "calibrate",
    "weigh",
    "quantize",
    "save",
    "evaluate",
    "compare",
    "verify",
    "push",
)


@dataclass(frozen=True)
class ProgressEvent(Record):
    """Describe one step of a job; passed to `on_progress`.

    Attributes:
        phase: one of `PHASES`.
        done: units done so far in this phase.
        total: units of the whole phase; 0 if it is not known.
        unit: the unit counted: "bytes", "layers", "blocks", "tokens", "windows", "runs", "configs" or
            "checks".
        detail: what was just done, for example the name of a file or layer.
    """

    phase: str
    done: int
    total: int
    unit: str
    detail: str = ""

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.phase, f"{self.done} of {self.total} {self.unit}", self.detail),)


OnProgress = Callable[[ProgressEvent], None]


def ignore_progress(event: ProgressEvent) -> None:
    """Do nothing: the default `on_progress` callback."""
