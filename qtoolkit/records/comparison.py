"""Record a comparison of several quantized versions of a model: size, quality and speed."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

from qtoolkit.errors import OutputError, oneline
from qtoolkit.files import path_of, write_whole
from qtoolkit.optional import optional
from qtoolkit.records import html
from qtoolkit.records.base import Grid, Record, Row, note_rows, row_if
from qtoolkit.records.charts import Point, scatter
from qtoolkit.records.memory import times_smaller
from qtoolkit.records.quality import QualityReport, as_percent, with_error
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_bytes, format_seconds

FULL_PRECISION = "full precision"
# The name of a column, whose figures are measured from 10,000 tokens on.
TAIL = "99.9 %"
_HEADER = (
    "config", "KL divergence", TAIL, "perplexity", "same likeliest token", "footprint", "memory to use", "on disk",
    "bits per weight", "writes", "time", "remark",
)  # fmt: skip

_OVERVIEW = ("model", "weight files", "same likeliest token", "KL divergence", "perplexity", "writes")


@dataclass(frozen=True)
class Compared(Record):
    """Hold the figures of one candidate in a comparison; None for what was not measured. All sizes in bytes.

    Attributes:
        label: the config as it is written in a call, "full precision", or what the user called a checkpoint.
        method: the method's name; "full precision" for a model that is not quantized.
        settings: the config's fields as JSON-ready values; empty for a checkpoint that other programs wrote.
        device: where it ran, "cpu" or "cuda:0".
        footprint: every tensor of the model in memory.
        memory: what using it takes besides the process itself: footprint, keys and values of 4,096 tokens (or of the
            model's maximum if it is shorter), and a row of logits.
        disk: its weight files; predicted if it was quantized for the comparison and not saved.
        bits_per_weight: of the whole model in memory.
        quality: the loss against the base, and the speed.
        answers: the text it generated after each prompt.
        seconds: how long it took to quantize and measure.
        retries: how often it was started again because its worker process was lost.
        error: why it could not be measured; empty if it was.
    """

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
        """Return the mean KL divergence from the base, in nats; None if it was not measured."""
        return self.quality.kl_divergence if self.quality else None

    def rows(self) -> tuple[Row, ...]:
        cells = zip(_HEADER[1:-1], self.cells()[1:-1], strict=True)
        values = "; ".join(f"{name} {value}" for name, value in cells if value)
        return (Row(self.label, values, self.remark()),)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table line; a cell is empty if nothing was measured."""
        quality = self.quality
        sizes = (format_bytes(size) if size is not None else "" for size in (self.footprint, self.memory, self.disk))
        return (
            self.label,
            with_error(quality.kl_divergence, quality.kl_divergence_se) if quality else "",
            with_error(quality.kl_divergence_p999, quality.kl_divergence_p999_se) if quality else "",
            with_error(quality.perplexity, quality.perplexity_se) if quality else "",
            as_percent(quality.same_top_p, quality.same_top_p_se) if quality else "",
            *sizes,
            "" if self.bits_per_weight is None else f"{self.bits_per_weight:.3f}",
            _speed(self),
            format_seconds(self.seconds),
            self.remark(),
        )

    def remark(self) -> str:
        """Return errors and restarts as text; empty if there were none."""
        again = f"begun again {self.retries} times" if self.retries > 1 else "begun again once" if self.retries else ""
        return "; ".join(filter(None, [self.error, again]))

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, for a row of a data frame; raw numbers, None for what was not measured."""
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
    """Compare candidates on one text, the one with the smallest loss first.

    Attributes:
        source: the model in full precision, the base of all measurements.
        text: the user's name for the text; never the text itself.
        text_fingerprint: SHA-256 of its tokens in windows.
        results: one for each candidate, by KL divergence; those that failed come last.
        prompts: the texts that they continued.
        memory_limit: bytes that using one may take; None without a limit.
        seconds: how long it took.
        notes: what was decided, one line each.
    """

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
        """Return the quantized candidate with the smallest loss within `memory_limit`; None if there is none."""
        fitting = [result for result in self.results if self._fits(result) and result.method != FULL_PRECISION]
        return min(fitting, key=lambda result: _order(result)[0], default=None)

    @property
    def noise_floor(self) -> float | None:
        """Return the KL divergence caused by rounding alone; None if it was not measured."""
        floors = (result.quality.noise_floor for result in self.results if result.quality)
        return next((floor for floor in floors if floor is not None), None)

    def headline(self) -> str:
        """Return which quantized form loses least, how often it agrees with the base, and its size.

        Example:
            "NF4() loses least of all quantized forms: the same likeliest token as full precision in 92 of 100 places,
            KL divergence 0.0871 ± 0.0042 nats, 112 MB of weight files."
        """
        best, failed = self.best, sum(bool(result.error) for result in self.results)
        limit = f" that take at most {format_bytes(self.memory_limit)}" if self.memory_limit else ""
        if best is None:
            found = f"There are no quantized forms{limit}."
        else:
            loss = with_error(best.quality.kl_divergence, best.quality.kl_divergence_se, "nats") if best.quality else ""
            size = "" if best.disk is None else f", {format_bytes(best.disk)} of weight files"
            share = best.quality.same_top_p if best.quality else None
            same = "" if share is None else f"the same likeliest token as {FULL_PRECISION} in {_of_100(share)} places"
            figures = f"KL divergence {loss}{size}"
            if same and sum(result.method != FULL_PRECISION for result in self.results) == 1:
                found = f"{best.label} has {same}: {figures}."
            else:
                least = f"{best.label} loses least of all quantized forms{limit}"
                found = f"{least}: {', '.join(filter(None, (same, figures)))}."
        return f"{found} {failed} failed: the remark says why." if failed else found

    def overview(self) -> Grid:
        """Return a small table: full precision first, then each form with its size, its loss and its speed."""
        base = next((result for result in self.results if result.method == FULL_PRECISION), None)
        measured = next((result.quality for result in self.results if result.quality), None)
        perplexity = measured.base_perplexity if measured else None
        size = "" if self.source.disk_size is None else format_bytes(self.source.disk_size)
        lines = [(FULL_PRECISION, size, "", "", with_error(perplexity, None), _speed(base))]
        for result in self.results:
            if result.method == FULL_PRECISION:
                continue
            quality, disk = result.quality, result.disk
            share = quality.same_top_p if quality else None
            lines.append(
                (
                    result.label if not result.error else f"{result.label}: failed",
                    "" if disk is None else _beside(disk, self.source.disk_size),
                    "" if share is None else f"{_of_100(share)} places",
                    with_error(quality.kl_divergence, None, "nats") if quality else "",
                    with_error(quality.perplexity, None) if quality else "",
                    _speed(result),
                )
            )
        grid = Grid("Beside the original", _OVERVIEW, tuple(lines))
        for name in _OVERVIEW[1:]:
            grid = grid.without_empty(name)
        return grid

    def rows(self) -> tuple[Row, ...]:
        measured = next((result.quality for result in self.results if result.quality), None)
        perplexity = with_error(measured.base_perplexity, measured.base_perplexity_se) if measured else ""
        floor = None if self.noise_floor is None else f"{self.noise_floor:.3g}"
        best = self.best
        limit = f", of those that take at most {format_bytes(self.memory_limit)}" if self.memory_limit else ""
        return (
            *self.source.rows(),
            Row("text", self.text, f"{measured.num_windows} windows of {measured.seq_len}" if measured else ""),
            *row_if("perplexity of the base", perplexity),
            *row_if("noise floor", floor, "KL divergence that rounding alone makes"),
            Row("best", best.label if best else "none", f"least KL divergence{limit}"),
            Row("time", format_seconds(self.seconds)),
            *note_rows(self.notes),
        )

    def grids(self) -> tuple[Grid, ...]:
        lines = tuple(result.cells() for result in self.results)
        answers = (
            Grid(f"after {prompt!r}", ("config", "wrote"), _answers(self.results, index))
            for index, prompt in enumerate(self.prompts)
        )
        title = (
            "KL divergence in nats, mean and 99.9 %, ± one standard error; memory to use: with keys and values of "
            "4,096 tokens"
        )
        return (Grid(title, _HEADER, lines).without_empty(TAIL), *(grid for grid in answers if grid.lines))

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
        bars = [(label, speed, f"{speed:.1f} tokens/s") for label, speed in speeds if speed is not None]
        return sizes + (html.bars("Tokens written in a second", bars) if bars else "")

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame with a row for each result: sizes in bytes, times in seconds.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        return optional("pandas", "to_dataframe").DataFrame([result.figures() for result in self.results])

    def to_csv(self, path: str | PathLike[str]) -> Path:
        """Write the figures of all results as CSV, one line each; an existing file is replaced.

        Raises:
            OutputError: the file cannot be written; an existing one is unchanged.
            ConfigError: `path` is not a path, or a relative one while the current folder was removed.
        """
        figures = [result.figures() for result in self.results]
        names = dict.fromkeys(name for row in figures for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(figures)
        return write_text(path, text.getvalue())

    def to_json(self, path: str | PathLike[str]) -> Path:
        """Write the record as JSON, which `from_dict` reads back; an existing file is replaced.

        Raises:
            OutputError: the file cannot be written; an existing one is unchanged.
            ConfigError: `path` is not a path, or a relative one while the current folder was removed.
        """
        return write_text(path, json.dumps(self.to_dict(), indent=2))

    def _fits(self, result: Compared) -> bool:
        """Return whether a result was measured and is within `memory_limit`."""
        if result.error or not math.isfinite(_order(result)[0]):
            return False
        return self.memory_limit is None or (result.memory is not None and result.memory <= self.memory_limit)


def in_order(results: tuple[Compared, ...]) -> tuple[Compared, ...]:
    """Sort results by KL divergence, of equal ones the smaller first; failed ones come last."""
    return tuple(sorted(results, key=_order))


def _order(result: Compared) -> tuple[float, float, str]:
    loss = math.inf if result.kl_divergence is None else result.kl_divergence
    size = math.inf if result.footprint is None else result.footprint
    return (math.inf if math.isnan(loss) else loss, size, result.label)


def _of_100(share: float) -> str:
    """Return a share in words: `0.921` -> "92 of 100"; "more than 99 of 100" is not all."""
    return "more than 99 of 100" if 0.995 <= share < 1 else f"{100 * share:.0f} of 100"


def _beside(size: int, base: int | None) -> str:
    """Return a size, and how many times smaller or larger than the base's it is."""
    return f"{format_bytes(size)}, {times_smaller(base / size)}" if size and base else format_bytes(size)


def _speed(result: Compared | None) -> str:
    speed = result.quality.tokens_per_second if result and result.quality else None
    return "" if speed is None else f"{speed:.1f} tokens/s"


def _answers(results: tuple[Compared, ...], index: int) -> tuple[tuple[str, ...], ...]:
    return tuple((result.label, result.answers[index]) for result in results if index < len(result.answers))


def write_text(path: str | PathLike[str], text: str) -> Path:
    """Write a text to a file; an existing one is replaced.

    Raises:
        OutputError: the file cannot be written; an existing one is unchanged.
        ConfigError: `path` is not a path, or a relative one while the current folder was removed.
    """
    file = path_of(path, "path")
    try:
        write_whole(file, text.encode())
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written ({error.strerror or oneline(error)}): name another file"
        ) from error
    return file
