"""Several forms of a model side by side: how large, how much was lost, how fast."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from qtoolkit.errors import OutputError, oneline
from qtoolkit.files import path_of, write_whole
from qtoolkit.optional import optional
from qtoolkit.records import html
from qtoolkit.records.base import Grid, Record, Row
from qtoolkit.records.charts import Point, scatter
from qtoolkit.records.quality import QualityReport, with_error
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_bytes, format_seconds

FULL_PRECISION = "full precision"
_HEADER = (
    "config", "KL divergence", "perplexity", "same likeliest token", "footprint", "memory to use", "on disk",
    "bits per weight", "writes", "time", "remark",
)  # fmt: skip


@dataclass(frozen=True)
class Compared(Record):
    """One form of a model in a comparison. What could not be measured is None. All sizes in bytes.

    Attributes:
        label: the config as it is written in a call, "full precision", or what the user called a checkpoint.
        method: the method's name; "full precision" for a model that is not quantized.
        settings: the config's fields as JSON-ready values; empty for what was read back from files of another maker.
        device: where it ran, "cpu" or "cuda:0".
        footprint: every tensor of the model in memory.
        memory: footprint, keys and values of 4,096 tokens (or of all that the model reads), and a row of logits: what
            using it takes beside the process itself.
        disk: its weight files; predicted for one that was made for the comparison and not saved.
        bits_per_weight: of the whole model in memory.
        quality: what was lost against the base, and the speed.
        answers: what it wrote after each prompt.
        seconds: how long it took to make and measure.
        retries: how often it was begun again, since the worker that had it was lost.
        error: why it could not be measured; empty where it was.
    """

    schema_version: ClassVar[int] = 1

    label: str
    method: str
    settings: Mapping[str, Any]
    device: str
    footprint: int | None = None
    memory: int | None = None
    disk: int | None = None
    bits_per_weight: float | None = None
    quality: QualityReport | None = None
    answers: tuple[str, ...] = ()
    seconds: float = 0.0
    retries: int = 0
    error: str = ""

    @property
    def kl_divergence(self) -> float | None:
        """Mean KL divergence from the base, in nats; None where it was not measured."""
        return self.quality.kl_divergence if self.quality else None

    def rows(self) -> tuple[Row, ...]:
        cells = zip(_HEADER[1:-1], self.cells()[1:-1], strict=True)
        values = "; ".join(f"{name} {value}" for name, value in cells if value)
        return (Row(self.label, values, self.remark()),)

    def cells(self) -> tuple[str, ...]:
        """The line of a table; empty where nothing was measured."""
        found = self.quality
        sizes = (format_bytes(size) if size is not None else "" for size in (self.footprint, self.memory, self.disk))
        share, error = (found.same_top_p, found.same_top_p_se) if found else (None, None)
        speed = found.tokens_per_second if found else None
        return (
            self.label,
            with_error(found.kl_divergence, found.kl_divergence_se) if found else "",
            with_error(found.perplexity, found.perplexity_se) if found else "",
            with_error(share and 100 * share, error and 100 * error, "%"),
            *sizes,
            "" if self.bits_per_weight is None else f"{self.bits_per_weight:.3f}",
            "" if speed is None else f"{speed:.1f} tokens/s",
            format_seconds(self.seconds),
            self.remark(),
        )

    def remark(self) -> str:
        """What went wrong on the way; mostly nothing."""
        again = f"begun again {self.retries} times" if self.retries > 1 else "begun again once" if self.retries else ""
        return "; ".join(filter(None, [self.error, again]))

    def figures(self) -> dict[str, Any]:
        """All figures by name, for a line of a data frame; raw numbers, None for what was not measured."""
        left_out = {"settings", "quality", "answers"}
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        names = [field.name for field in fields(QualityReport) if field.type in (float, float | None, int)]
        measured = {name: getattr(self.quality, name, None) for name in names if name != "seconds"}
        speed = self.quality.speed if self.quality else None
        speeds = ("tokens_per_second", "prompt_tokens_per_second", "first_token_seconds")
        return {
            **own,
            "settings": json.dumps(dict(self.settings)),
            **measured,
            **{name: getattr(speed, name, None) for name in speeds},
            **{f"answer_{number}": answer for number, answer in enumerate(self.answers, start=1)},
        }


@dataclass(frozen=True)
class Comparison(Record):
    """Forms of a model on one text, the least lost first.

    Attributes:
        source: the model in full precision, which all are measured against.
        text: what the user called the text; never the text itself.
        text_fingerprint: SHA-256 of its tokens in windows.
        results: one of each form, by KL divergence; those that failed come last.
        prompts: what they were asked to continue.
        memory_limit: bytes that using one may take; None where nothing was said.
        seconds: how long it took.
        notes: what was decided, one line each.
    """

    schema_version: ClassVar[int] = 1

    source: ModelSource
    text: str
    text_fingerprint: str
    results: tuple[Compared, ...]
    prompts: tuple[str, ...] = ()
    memory_limit: int | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Compared | None:
        """Of what is quantized and whose `memory` keeps the limit, what lost least; None where there is none."""
        fitting = [result for result in self.results if self._fits(result) and result.method != FULL_PRECISION]
        return min(fitting, key=lambda result: _order(result)[0], default=None)

    @property
    def noise_floor(self) -> float | None:
        """The KL divergence that rounding alone makes; None where it was not measured."""
        found = (result.quality.noise_floor for result in self.results if result.quality)
        return next((floor for floor in found if floor is not None), None)

    def rows(self) -> tuple[Row, ...]:
        measured = next((result.quality for result in self.results if result.quality), None)
        perplexity = with_error(measured.base_perplexity, measured.base_perplexity_se) if measured else ""
        rows = [
            *self.source.rows(),
            Row("text", self.text, f"{measured.num_windows} windows of {measured.seq_len}" if measured else ""),
        ]
        if perplexity:
            rows.append(Row("perplexity of the base", perplexity))
        if self.noise_floor is not None:
            rows.append(Row("noise floor", f"{self.noise_floor:.3g}", "KL divergence that rounding alone makes"))
        limit = f", of those that take at most {format_bytes(self.memory_limit)}" if self.memory_limit else ""
        best = self.best
        rows.append(Row("best", best.label if best else "none", f"least KL divergence{limit}"))
        return (*rows, Row("time", format_seconds(self.seconds)), *(Row("note", note) for note in self.notes))

    def grids(self) -> tuple[Grid, ...]:
        lines = tuple(result.cells() for result in self.results)
        asked = (
            Grid(f"after {prompt!r}", ("config", "wrote"), _answers(self.results, index))
            for index, prompt in enumerate(self.prompts)
        )
        title = "KL divergence in nats, ± one standard error; memory to use: with keys and values of 4,096 tokens"
        return (Grid(title, _HEADER, lines), *(grid for grid in asked if grid.lines))

    def picture(self) -> str:
        points = [
            Point(result.label, result.footprint, result.kl_divergence, result.quality.kl_divergence_se or 0.0)
            for result in self.results
            if result.quality and result.footprint is not None and result.kl_divergence is not None
        ]
        floor = self.noise_floor
        sizes = scatter(
            "KL divergence against size",
            points,
            x_label="footprint",
            y_label="KL divergence, nats",
            x_text=lambda size: format_bytes(round(size)),
            line=None if floor is None else ("noise floor", floor),
        )
        speeds = [(result.label, result.quality.tokens_per_second) for result in self.results if result.quality]
        written = [(label, speed, f"{speed:.1f} tokens/s") for label, speed in speeds if speed is not None]
        return sizes + (html.bars("Tokens written in a second", written) if written else "")

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a line for each result: sizes in bytes, times in seconds.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return optional("pandas", "to_dataframe").DataFrame([result.figures() for result in self.results])

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write the figures of all results as CSV, a line each; a file that stands there is replaced.

        Raises:
            OutputError: it cannot be written; what stood there before still does.
            ConfigError: it is no path, or a relative one where the current folder was removed.
        """
        figures = [result.figures() for result in self.results]
        names = dict.fromkeys(name for line in figures for name in line)
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(figures)
        return _write(path, text.getvalue())

    def to_json(self, path: str | PathLike[str]) -> Path:
        """Write all of it as JSON, which `from_dict` reads back; a file that stands there is replaced.

        Raises:
            OutputError: it cannot be written; what stood there before still does.
            ConfigError: it is no path, or a relative one where the current folder was removed.
        """
        return _write(path, json.dumps(self.to_dict(), indent=2))

    def _fits(self, result: Compared) -> bool:
        """Whether a result was measured, and keeps the limit."""
        if result.error or not math.isfinite(_order(result)[0]):
            return False
        return self.memory_limit is None or (result.memory is not None and result.memory <= self.memory_limit)


def in_order(results: tuple[Compared, ...]) -> tuple[Compared, ...]:
    """Results by KL divergence, the smaller of two alike first; what failed comes last."""
    return tuple(sorted(results, key=_order))


def _order(result: Compared) -> tuple[float, float, str]:
    lost, size = result.kl_divergence, result.footprint
    unknown = lost is None or math.isnan(lost)
    return (math.inf if unknown or lost is None else lost, math.inf if size is None else size, result.label)


def _answers(results: tuple[Compared, ...], index: int) -> tuple[tuple[str, ...], ...]:
    return tuple((result.label, result.answers[index]) for result in results if index < len(result.answers))


def _write(path: str | PathLike[str], text: str) -> Path:
    file = path_of(path, "path")
    try:
        write_whole(file, text.encode())
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written ({error.strerror or oneline(error)}): name another file"
        ) from error
    return file
