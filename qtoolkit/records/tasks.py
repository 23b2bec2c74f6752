"""Record the results of a model on benchmark tasks of lm-eval."""

from dataclasses import dataclass

from qtoolkit.records.base import Record, Row, note_rows
from qtoolkit.units import format_count, format_seconds

_NO_FILTER = "none"


@dataclass(frozen=True)
class TaskMetric(Record):
    """Hold one metric of one task, or of a group of tasks.

    Attributes:
        task: its name.
        metric: the metric's name: "acc", "acc_norm", "exact_match", ...
        filter: how the model's answer was filtered before it was judged, by the task's name for it; "none" if not.
        value: the result in the metric's own unit; accuracies lie between 0 and 1.
        standard_error: of the value, over the samples; None if lm-eval gives none.
        num_samples: number of questions.
        num_fewshot: solved examples before each question.
        version: of the task; values of different versions cannot be compared.
        higher_is_better: whether more is better; None if the task does not say.
    """

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
        notes = [f"{format_count(self.num_samples)} samples", f"{self.num_fewshot}-shot"]
        if self.version:
            notes.append(f"version {self.version}")
        if self.higher_is_better is False:
            notes.append("lower is better")
        return (Row(f"{self.task} {name}", f"{self.value:.4f}{error}", ", ".join(notes)),)


@dataclass(frozen=True)
class TaskReport(Record):
    """Hold all results of a model on benchmark tasks.

    Attributes:
        model: its name, and how it is quantized.
        metrics: each metric of each task and group, in the order of the tasks.
        lm_eval_version: version of the package lm-eval.
        seconds: how long the whole run took.
        notes: what was decided, one line each.
    """

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
            *note_rows(self.notes),
        )
