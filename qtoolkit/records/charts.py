"""Points as SVG, in an image: no script, no package, and a grey that is read on light and on dark.

Not inline: a notebook that is opened without being trusted loses such pictures, but for the words in them.
"""

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import NamedTuple

# 4.5 to 1 on white, 4.2 to 1 on JupyterLab's dark ground.
_GREY = "#777777"
# In the units of the view box.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 60, 380, 14, 44
_LEAST_HEIGHT, _LINE = 220, 16
_LABELS_AT, _LONGEST_LABEL = 400, 34
# Decades between two marks of the vertical axis, at most so many marks.
_MOST_MARKS = 8
# Outlines around (0, 0); told apart in black and white. After the last they come again, not filled.
_SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -5.5L5.5 4.5H-5.5z",
    "M0 -6L6 0L0 6L-6 0z",
    "M0 5.5L5.5 -4.5H-5.5z",
    "M-2 -5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
)


class Point(NamedTuple):
    """One point of a picture.

    Attributes:
        label: what it is.
        x: at least 0.
        y: drawn to a logarithmic scale: 0 stands at the lower edge, infinity at the upper one; NaN is left out.
        error: a standard error of y; 0 where none is known.
    """

    label: str
    x: float
    y: float
    error: float = 0.0


def scatter(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    line: tuple[str, float] | None = None,
) -> str:
    """Points with their labels in a column beside them, each led to its own, so that no two lie on one another.

    Args:
        title: what the picture shows, for people who hear it read.
        points: what is drawn.
        x_label, y_label: what the axes count, with the unit.
        x_text: a place of the x axis as text.
        line: label and height of a level that the points are compared with.

    Returns:
        HTML; nothing where no point can be drawn.
    """
    drawn = sorted((point for point in points if not math.isnan(point.y)), key=lambda point: -point.y)
    if not drawn:
        return ""
    height = max(_LEAST_HEIGHT, _LINE * len(drawn))
    heights = [point.y + sign * point.error for point in drawn for sign in (-1, 0, 1)] + ([line[1]] if line else [])
    axis = _Logarithmic(heights, _TOP + height, _TOP)
    widest = max(point.x for point in drawn) or 1.0
    parts = [*_x_axis(widest, x_label, x_text, _TOP + height), *_y_axis(axis, y_label)]
    if line:
        parts.append(_line(_LEFT, axis.place(line[1]), _RIGHT, axis.place(line[1]), 'stroke-dasharray="4 3"'))
        parts.append(_text(_LEFT + 4, axis.place(line[1]) - 4, line[0]))
    places = _spread([axis.place(point.y) for point in drawn], _TOP, _TOP + height)
    for index, (point, beside) in enumerate(zip(drawn, places, strict=True)):
        parts += _point(point, index, _x_place(point.x, widest), axis, beside)
    size = f'width="{_WIDTH}" height="{_TOP + height + _BOTTOM}"'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_WIDTH} {_TOP + height + _BOTTOM}" '
        f'color="{_GREY}" fill="currentColor" font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )
    data = base64.b64encode(svg.encode()).decode()
    style = "max-width:100%;height:auto;display:block"
    return f'<img alt="{escape(title)}" {size} style="{style}" src="data:image/svg+xml;base64,{data}"/>'


class _Logarithmic:
    """A vertical axis from one power of ten to another; heights that have no place on it stand at its edges."""

    def __init__(self, heights: Sequence[float], bottom: float, top: float) -> None:
        known = [math.log10(height) for height in heights if 0 < height < math.inf]
        self.low, self.high = (math.floor(min(known)), math.ceil(max(known))) if known else (-3, 0)
        self.high = max(self.high, self.low + 1)
        self._bottom, self._top = bottom, top

    def place(self, height: float) -> float:
        """Where a height stands in the picture."""
        if height <= 0:
            return self._bottom
        power = self.high if height == math.inf else math.log10(height)
        share = (power - self.low) / (self.high - self.low)
        return self._bottom - min(max(share, 0.0), 1.0) * (self._bottom - self._top)

    def marks(self) -> Iterator[tuple[float, str]]:
        """Places of powers of ten, with their text."""
        for power in range(self.low, self.high + 1, math.ceil((self.high - self.low) / _MOST_MARKS)):
            share = (power - self.low) / (self.high - self.low)
            yield (
                self._bottom - share * (self._bottom - self._top),
                f"{10.0**power:g}" if power > -300 else f"1e{power}",
            )


def _point(point: Point, index: int, x: float, axis: _Logarithmic, beside: float) -> list[str]:
    """A point with its error, its label, and what leads from one to the other."""
    y = axis.place(point.y)
    fill = ' fill="none"' if index // len(_SHAPES) % 2 else ""
    shape = f'd="{_SHAPES[index % len(_SHAPES)]}" stroke="currentColor"{fill}'
    at_edge = " (0)" if point.y == 0 else " (infinite)" if point.y == math.inf else ""
    whole = point.label + at_edge
    label = whole if len(whole) <= _LONGEST_LABEL else whole[: _LONGEST_LABEL - 1] + "…"
    parts = []
    if point.error and math.isfinite(point.error):
        low, high = axis.place(point.y - point.error), axis.place(point.y + point.error)
        parts = [_line(x, low, x, high), _line(x - 4, low, x + 4, low), _line(x - 4, high, x + 4, high)]
    return [
        *parts,
        _line(x, y, _LABELS_AT - 8, beside, 'stroke-opacity="0.3"'),
        f'<path transform="translate({x:.1f} {y:.1f})" {shape}/>',
        f'<path transform="translate({_LABELS_AT} {beside:.1f})" {shape}/>',
        _text(_LABELS_AT + 12, beside + 4, label),
    ]


def _spread(places: Sequence[float], top: float, bottom: float) -> list[float]:
    """Places from the top down, moved so that neighbours are a line apart and all lie between top and bottom."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + _LINE) if spread else max(place, top))
    limit = bottom
    for index in reversed(range(len(spread))):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - _LINE
    return spread


def _x_place(x: float, widest: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * 0.95 * x / widest


def _x_axis(widest: float, label: str, x_text: Callable[[float], str], bottom: float) -> Iterator[str]:
    """The axis from 0 on, marked at one, two or five times a power of ten, at most five times."""
    yield _line(_LEFT, bottom, _RIGHT, bottom)
    power = 10.0 ** math.floor(math.log10(widest / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if 4 * factor * power >= widest)
    for mark in range(int(widest / step) + 1):
        x = _x_place(mark * step, widest)
        yield _line(x, bottom, x, bottom + 4)
        yield _text(x, bottom + 18, x_text(mark * step), 'text-anchor="middle"')
    yield _text((_LEFT + _RIGHT) / 2, bottom + 36, label, 'text-anchor="middle"')


def _y_axis(axis: _Logarithmic, label: str) -> Iterator[str]:
    yield _line(_LEFT, axis.place(0), _LEFT, _TOP)
    for y, text in axis.marks():
        yield _line(_LEFT, y, _RIGHT, y, 'stroke-opacity="0.15"')
        yield _text(_LEFT - 6, y + 4, text, 'text-anchor="end"')
    middle = (axis.place(0) + _TOP) / 2
    yield _text(0, 0, label, f'text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)"')


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" {more}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
