"""Record which recipes of a model are worth their size: those that lose less than any other that is as small."""

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from qtoolkit.records.base import Grid, Record, Row, note_rows, row_if
from qtoolkit.records.charts import Point, frontier_svg, image
from qtoolkit.records.comparison import TAIL, Compared, write_text
from qtoolkit.records.markdown import escaped, table
from qtoolkit.records.quality import with_error
from qtoolkit.records.source import ModelSource
from qtoolkit.units import format_bytes, format_items, format_seconds

_HEADER = (
    "recipe", "weight files", "memory to use", "KL divergence", TAIL, "perplexity", "bits per weight", "writes",
    "on the frontier", "remark",
)  # fmt: skip
_TITLE = (
    "KL divergence in nats, ± one standard error: its mean, and what 99.9 % of the tokens lie below; memory to use: "
    "with keys and values of 4,096 tokens"
)


@dataclass(frozen=True)
class Unmeasured(Record):
    """Tell why a recipe was not measured. Sizes in bytes, None where they are not known.

    Attributes:
        label: the config as it is written in a call.
        disk: its weight files, as planned.
        memory: what using it takes, as planned.
        reason: why it was not measured.
    """

    label: str
    disk: int | None = None
    memory: int | None = None
    reason: str = ""

    def rows(self) -> tuple[Row, ...]:
        return (Row(self.label, self.reason, ", ".join(filter(None, self.cells()[1:3]))),)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table line."""
        return (self.label, _size(self.disk), _size(self.memory), self.reason)


@dataclass(frozen=True)
class Frontier(Record):
    """Hold recipes measured on one text, the smallest weight files first, and tell which are on the frontier.

    A recipe is dominated by one whose weight files are no larger and whose mean KL divergence is no larger, if one of
    the two is smaller. Those that nothing dominates are the frontier: of each size they lose least.

    Attributes:
        source: the model in full precision, the base of all measurements.
        text: the user's name for the text; never the text itself.
        text_fingerprint: SHA-256 of its tokens in windows.
        results: one for each recipe that was measured, by size; those that failed come last.
        unmeasured: the recipes that were not measured, each with its reason.
        memory_limit: bytes that using a result may take; None without a limit.
        sizes: sizes of weight files that were wanted, in bytes.
        seconds: how long it took.
        notes: what was decided, one line each.
    """

    source: ModelSource
    text: str
    text_fingerprint: str
    results: tuple[Compared, ...]
    unmeasured: tuple[Unmeasured, ...] = ()
    memory_limit: int | None = None
    sizes: tuple[int, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def frontier(self) -> tuple[Compared, ...]:
        """Return the recipes that no other dominates, the smallest first."""
        return tuple(one for one in self.results if _is_measured(one) and self.dominator(one) is None)

    def dominator(self, result: Compared) -> Compared | None:
        """Return the recipe that dominates one, of several the one that loses least; None if nothing does."""
        others = [one for one in self.results if _is_measured(one) and _dominates(one, result)]
        return min(others, key=lambda one: (_loss(one), _disk(one)), default=None)

    def headline(self) -> str:
        """Return how many recipes are worth their size, with the smallest and the one that loses least.

        Example:
            "3 of 5 recipes are worth their size: from NF4() (81.4 MB, 0.112 ± 0.004 nats) to full precision (134 MB,
            0 nats)."
        """
        worth = self.frontier
        if not worth:
            return "No recipe was measured: below stands why."
        count = f"{len(worth)} of {format_items(len(self.results), 'recipe')}"
        first, last = (f"{one.label} ({_figures(one)})" for one in (worth[0], worth[-1]))
        if len(worth) == 1:
            return f"{count} is worth its size: {first}."
        return f"{count} are worth their size: from {first} to {last}."

    def rows(self) -> tuple[Row, ...]:
        measured = next((one.quality for one in self.results if one.quality), None)
        perplexity = with_error(measured.base_perplexity, measured.base_perplexity_se) if measured else ""
        wanted = f"memory to use at most {format_bytes(self.memory_limit)}" if self.memory_limit else ""
        wanted = f"weight files near {', '.join(map(format_bytes, self.sizes))}" if self.sizes else wanted
        return (
            *self.source.rows(),
            Row("text", self.text, f"{measured.num_windows} windows of {measured.seq_len}" if measured else ""),
            *row_if("perplexity of the base", perplexity),
            *row_if("wanted", wanted),
            Row("measured", format_items(len(self.results), "recipe"), f"{len(self.unmeasured)} others listed below"),
            *(Row("on the frontier", one.label, _figures(one)) for one in self.frontier),
            Row("time", format_seconds(self.seconds)),
            *note_rows(self.notes),
        )

    def grids(self) -> tuple[Grid, ...]:
        others = tuple(one.cells() for one in self.unmeasured)
        left_out = (Grid("not measured", ("recipe", "weight files", "memory to use", "why"), others),) if others else ()
        return (self._table(), *left_out)

    def picture(self) -> str:
        svg = self.svg()
        return image(self.alternative(), svg) if svg else ""

    def to_markdown(self) -> str:
        """Return the table of what was measured in Markdown, for a model's card; all text in it is escaped."""
        _, header, lines = self._table()
        return f"{table(header, lines)}\n\n{escaped(f'{self.source.name} on {self.text}. {_TITLE}.')}\n"

    def to_svg(self, path: str | PathLike[str]) -> Path:
        """Write the picture as an SVG file; an existing file is replaced.

        Raises:
            OutputError: the file cannot be written; an existing one is unchanged.
            ConfigError: `path` is not a path, or a relative one while the current folder was removed.
        """
        return write_text(path, self.svg() or '<svg xmlns="http://www.w3.org/2000/svg"/>')

    def _table(self) -> Grid:
        return Grid(_TITLE, _HEADER, tuple(map(self._cells, self.results))).without_empty(TAIL)

    def svg(self) -> str:
        """Return the picture of what was measured; empty if nothing was."""
        points = [
            Point(
                one.label,
                _disk(one),
                _loss(one),
                (one.quality.kl_divergence_se or 0.0) if one.quality else 0.0,
                tail=one.quality.kl_divergence_p999 if one.quality else None,
                is_grey=self.dominator(one) is not None,
            )
            for one in self.results
            if _is_measured(one)
        ]
        return frontier_svg(
            self.alternative(),
            points,
            x_label="weight files",
            y_label="KL divergence, nats",
            x_text=lambda size: format_bytes(round(size)),
        )

    def alternative(self) -> str:
        """Return the picture in words."""
        found = "; ".join(f"{one.label} with {_figures(one)}" for one in self.frontier)
        return f"KL divergence against the size of the weight files. On the frontier: {found}"

    def _cells(self, result: Compared) -> tuple[str, ...]:
        quality = result.quality
        speed = quality.tokens_per_second if quality else None
        return (
            result.label,
            _size(result.disk),
            _size(result.memory),
            with_error(quality.kl_divergence, quality.kl_divergence_se) if quality else "",
            with_error(quality.kl_divergence_p999, quality.kl_divergence_p999_se) if quality else "",
            with_error(quality.perplexity, quality.perplexity_se) if quality else "",
            "" if result.bits_per_weight is None else f"{result.bits_per_weight:.3f}",
            "" if speed is None else f"{speed:.1f} tokens/s",
            self._verdict(result),
            result.remark(),
        )

    def _verdict(self, result: Compared) -> str:
        """Return whether a result is on the frontier, or what dominates it; empty if it was not measured."""
        if not _is_measured(result):
            return ""
        better = self.dominator(result)
        if better is None:
            return "yes"
        errors = [one.quality.kl_divergence_se or 0.0 for one in (better, result) if one.quality]
        within = _loss(result) - _loss(better) <= math.hypot(*errors)
        return f"no: {better.label}{', though within the errors' if within else ''}"


def by_size(results: tuple[Compared, ...]) -> tuple[Compared, ...]:
    """Sort results by the size of their weight files, of equal ones those that lose less first; failed ones last."""
    return tuple(sorted(results, key=lambda one: (not _is_measured(one), _disk(one), _loss(one), one.label)))


def _dominates(one: Compared, other: Compared) -> bool:
    mine, others = (_disk(one), _loss(one)), (_disk(other), _loss(other))
    return mine != others and mine[0] <= others[0] and mine[1] <= others[1]


def _is_measured(result: Compared) -> bool:
    return not result.error and math.isfinite(_disk(result)) and not math.isnan(_loss(result)) and bool(result.quality)


def _disk(result: Compared) -> float:
    return math.inf if result.disk is None else result.disk


def _loss(result: Compared) -> float:
    return math.nan if result.kl_divergence is None else result.kl_divergence


def _figures(result: Compared) -> str:
    """Return the size and the loss of a result as text."""
    quality = result.quality
    loss = with_error(quality.kl_divergence, quality.kl_divergence_se, "nats") if quality else ""
    return f"{_size(result.disk)}, {loss}"


def _size(size: int | None) -> str:
    return "" if size is None else format_bytes(size)
