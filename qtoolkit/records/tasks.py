"""How well a model does on benchmark tasks."""

from dataclasses import dataclass
from typing import ClassVar

from qtoolkit.records.base import Record, Row
from qtoolkit.units import format_count, format_seconds

_NO_FILTER = "none"


@dataclass(frozen=True)
class TaskMetric(Record):
    """One metric of one task, or of a group of tasks.

    Attributes:
        task: its name.
        metric: the metric's name: "acc", "acc_norm", "exact_match", ...
        filter: what was taken out of the model's answer before it was judged, as the task calls it; "none" for all.
        value: what was measured, in the metric's own unit; accuracies lie between 0 and 1.
        standard_error: of the value, over the samples; None where lm-eval knows none.
        num_samples: questions asked.
        num_fewshot: solved examples before each question.
        version: of the task: values of different versions do not compare.
        higher_is_better: whether more is better; None where the task does not say.
    """

    schema_version: ClassVar[int] = 1

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None
    num_samples: int
    num_fewshot: int
    version: str
    higher_is_better: bool | None

    def rows(self) -> tuple[Row, ...]:
        name = self.metric if self.filter == _NO_FILTER else f"{self.metric}, {self.filter}"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        told = [f"{format_count(self.num_samples)} samples", f"{self.num_fewshot}-shot"]
        if self.version:
            told.append(f"version {self.version}")
        if self.higher_is_better is False:
            told.append("lower is better")
        return (Row(f"{self.task} {name}", f"{self.value:.4f}{error}", ", ".join(told)),)


@dataclass(frozen=True)
class TaskReport(Record):
    """What a model reached on benchmark tasks.

    Attributes:
        model: its name, and how it is quantized.
        metrics: each metric of each task and group, in the order of the tasks.
        lm_eval_version: the package that asked and judged.
        seconds: of the whole run.
        notes: what was decided on the way.
    """

    schema_version: ClassVar[int] = 1

    model: str
    metrics: tuple[TaskMetric, ...]
    lm_eval_version: str
    seconds: float
    notes: tuple[str, ...] = ()

    def rows(self) -> tuple[Row, ...]:
        return (
            Row("model", self.model),
            *(row for metric in self.metrics for row in metric.rows()),
            Row("lm-eval", self.lm_eval_version),
            Row("whole run", format_seconds(self.seconds)),
            *(Row("note", note) for note in self.notes),
        )
