"""Draw scatter charts as SVG images, without scripts or other packages, in a grey readable on light and dark.

The SVG is not inline: Jupyter removes inline SVG from notebooks that are not trusted, and leaves only its text.
"""

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qtoolkit.records.html import escape

# Contrast of 4.5 to 1 on white, 4.2 to 1 on JupyterLab's dark background; the blue too.
_GREY = "#777777"
_BLUE = "#1a7acc"
# Sizes in units of the view box.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 60, 380, 14, 44
_MIN_HEIGHT, _LINE_HEIGHT = 220, 16
_LABELS_X, _MAX_LABEL_CHARS = 400, 34
# Of a frontier, whose labels are calls with several options.
_FRONTIER_WIDTH, _FRONTIER_LABEL_CHARS = 780, 54
# Share of the points' span that a frontier's axis has at the left of the smallest.
_MARGIN = 0.08
_LEGEND = "blue: the frontier; outlines: dominated; bar above: 99.9 % of the tokens lie below"
# The vertical axis has at most so many marks, at powers of ten.
_MAX_MARKS = 8
# Outlines around (0, 0) that differ in black and white. After the last they are used again, not filled.
_SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -5.5L5.5 4.5H-5.5z",
    "M0 -6L6 0L0 6L-6 0z",
    "M0 5.5L5.5 -4.5H-5.5z",
    "M-2 -5.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5v-4h3.5z",
)


class Point(NamedTuple):
    """Hold one point of a chart.

    Attributes:
        label: its name.
        x: at least 0.
        y: drawn on a logarithmic scale: 0 at the lower edge, infinity at the upper one; points with NaN are left out.
        error: standard error of y; 0 if it is not known.
        tail: a value above y that a short bar marks; None for none.
        is_grey: whether it stands behind the others: an outline, not filled.
    """

    label: str
    x: float
    y: float
    error: float = 0.0
    tail: float | None = None
    is_grey: bool = False


def scatter(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    line: tuple[str, float] | None = None,
) -> str:
    """Return a chart of points, with their labels in a column at the right so that no two overlap.

    Args:
        title: what the chart shows, for screen readers.
        points: the points.
        x_label, y_label: names of the axes, with the unit.
        x_text: formats a value of the x axis.
        line: label and y of a horizontal line that the points are compared with.

    Returns:
        HTML; empty if no point can be drawn.
    """
    drawn = _drawn(points)
    if not drawn:
        return ""
    bottom = _bottom(drawn)
    across = _LinearAxis(0.0, max(point.x for point in drawn))
    up = _LogAxis([*_heights(drawn), *([line[1]] if line else [])], bottom)
    parts = [*_x_axis(across, x_label, x_text, bottom), *_y_axis(up, y_label)]
    if line:
        level = up.position(line[1])
        parts.append(_line(_LEFT, level, _RIGHT, level, 'stroke-dasharray="4 3"'))
        parts.append(_text(_LEFT + 4, level - 4, line[0]))
    parts += _points(drawn, across, up, _MAX_LABEL_CHARS)
    return image(title, _svg(title, parts, _WIDTH, bottom + _BOTTOM))


def frontier_svg(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
) -> str:
    """Return the SVG of points and of the frontier, a blue line in steps through those that are not grey.

    Below the line and to its left nothing was found. The horizontal axis begins near the smallest point.

    Args:
        title: what the chart shows, for screen readers.
        points: the points; no two that are not grey lie one above the other.
        x_label, y_label: names of the axes, with the unit.
        x_text: formats a value of the x axis.

    Returns:
        SVG; empty if no point can be drawn.
    """
    drawn = _drawn(points)
    if not drawn:
        return ""
    bottom = _bottom(drawn)
    xs = [point.x for point in drawn]
    margin = _MARGIN * (max(xs) - min(xs))
    across = _LinearAxis(max(0.0, min(xs) - margin) if margin else 0.0, max(xs))
    up = _LogAxis(_heights(drawn), bottom)
    steps = ""
    for point in sorted((point for point in drawn if not point.is_grey), key=lambda point: point.x):
        x, y = across.position(point.x), up.position(point.y)
        steps += f"H{x:.1f}V{y:.1f}" if steps else f"M{x:.1f} {_TOP}V{y:.1f}"
    parts = [
        *_x_axis(across, x_label, x_text, bottom),
        *_y_axis(up, y_label),
        f'<path d="{steps}H{_RIGHT}" fill="none" stroke="{_BLUE}" stroke-width="2"/>',
        *_points(drawn, across, up, _FRONTIER_LABEL_CHARS, _BLUE),
        _text(_LEFT, bottom + _BOTTOM + 10, _LEGEND),
    ]
    return _svg(title, parts, _FRONTIER_WIDTH, bottom + _BOTTOM + _LINE_HEIGHT)


def image(title: str, svg: str) -> str:
    """Return an HTML image of an SVG, with its size; `title` is its text for screen readers."""
    width, height = (svg.partition(f'{name}="')[2].partition('"')[0] for name in ("width", "height"))
    data = base64.b64encode(svg.encode()).decode()
    style = "max-width:100%;height:auto;display:block"
    size = f'width="{width}" height="{height}"'
    return f'<img alt="{escape(title)}" {size} style="{style}" src="data:image/svg+xml;base64,{data}"/>'


def _svg(title: str, parts: Sequence[str], width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" color="{_GREY}" fill="currentColor" font-family="sans-serif" font-size="12">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _drawn(points: Sequence[Point]) -> list[Point]:
    """Return the points that can be drawn, from the top down."""
    return sorted((point for point in points if not math.isnan(point.y)), key=lambda point: -point.y)


def _bottom(drawn: Sequence[Point]) -> int:
    """Return the lower end of the vertical axis: the labels need a line each."""
    return _TOP + max(_MIN_HEIGHT, _LINE_HEIGHT * len(drawn))


def _heights(drawn: Sequence[Point]) -> list[float]:
    """Return all values that the vertical axis must have room for."""
    ends = [point.y + sign * point.error for point in drawn for sign in (-1, 0, 1)]
    return [*ends, *(point.tail for point in drawn if point.tail is not None)]


class _LinearAxis:
    """Place values on the horizontal axis, whose right end lies a little beyond the largest.

    Args:
        low: the value at its left end.
        high: the largest value.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.span = (high - low) or 1.0

    def position(self, value: float) -> float:
        """Return the x of a value in the picture."""
        return _LEFT + (_RIGHT - _LEFT) * 0.95 * (value - self.low) / self.span

    def marks(self) -> Iterator[float]:
        """Return at most five values, multiples of one, two or five times a power of ten."""
        power = 10.0 ** math.floor(math.log10(self.span / 4))
        step = next(factor * power for factor in (1, 2, 5, 10) if 4 * factor * power >= self.span)
        for index in range(math.ceil(self.low / step), int((self.low + self.span) / step) + 1):
            yield index * step


class _LogAxis:
    """Place values on a vertical axis between two powers of ten; values outside are placed at its ends.

    Args:
        values: the axis is as long as these need.
        bottom: y of its lower end in the picture.
    """

    def __init__(self, values: Sequence[float], bottom: float) -> None:
        powers = [math.log10(value) for value in values if 0 < value < math.inf]
        self.low, high = (math.floor(min(powers)), math.ceil(max(powers))) if powers else (-3, 0)
        self.high = max(high, self.low + 1)
        self.bottom = bottom

    def position(self, value: float) -> float:
        """Return the y of a value in the picture."""
        if value <= 0:
            return self.bottom
        return self._position_of_power(self.high if value == math.inf else math.log10(value))

    def marks(self) -> Iterator[tuple[float, str]]:
        """Return the positions of powers of ten, with their texts."""
        for power in range(self.low, self.high + 1, math.ceil((self.high - self.low) / _MAX_MARKS)):
            yield self._position_of_power(power), f"{10.0**power:g}" if abs(power) < 300 else f"1e{power}"

    def _position_of_power(self, power: float) -> float:
        share = (power - self.low) / (self.high - self.low)
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - _TOP)


def _points(
    drawn: Sequence[Point], across: _LinearAxis, up: _LogAxis, max_chars: int, colour: str = ""
) -> Iterator[str]:
    """Return all points, sorted from the top down, with their labels.

    Args:
        drawn: the points.
        across, up: the axes.
        max_chars: labels are cut after so many.
        colour: of the points that are not grey, all filled then; empty for the page's grey, every second round filled.
    """
    label_ys = _spread([up.position(point.y) for point in drawn], up.bottom)
    for index, (point, label_y) in enumerate(zip(drawn, label_ys, strict=True)):
        hollow = point.is_grey if colour else index // len(_SHAPES) % 2
        ink = "currentColor" if point.is_grey or not colour else colour
        shape = f'd="{_SHAPES[index % len(_SHAPES)]}" stroke="{ink}" fill="{"none" if hollow else ink}"'
        at_edge = " (0)" if point.y == 0 else " (infinite)" if point.y == math.inf else ""
        label = point.label + at_edge
        label = label if len(label) <= max_chars else f"{label[: max_chars - 1]}…"
        x, y = across.position(point.x), up.position(point.y)
        yield from _bars(point, x, y, up)
        yield _line(x, y, _LABELS_X - 8, label_y, 'stroke-opacity="0.3"')
        yield f'<path transform="translate({x:.1f} {y:.1f})" {shape}/>'
        yield f'<path transform="translate({_LABELS_X} {label_y:.1f})" {shape}/>'
        yield _text(_LABELS_X + 12, label_y + 4, label, f'fill="{ink}"')


def _bars(point: Point, x: float, y: float, axis: _LogAxis) -> Iterator[str]:
    """Return the error bar and the tail of a point at (x, y)."""
    if point.error and math.isfinite(point.error):
        low = axis.position(point.y - point.error)
        high = axis.position(point.y + point.error)
        yield from (_line(x, low, x, high), _line(x - 4, low, x + 4, low), _line(x - 4, high, x + 4, high))
    if point.tail is not None and not math.isnan(point.tail):
        tail = axis.position(point.tail)
        yield _line(x, y, x, tail, 'stroke-opacity="0.5" stroke-dasharray="1 3"')
        yield _line(x - 6, tail, x + 6, tail)


def _spread(positions: Sequence[float], bottom: float) -> list[float]:
    """Return positions, sorted from the top down, moved apart by the height of a line, between top and bottom."""
    spread: list[float] = []
    for position in positions:
        spread.append(max(position, spread[-1] + _LINE_HEIGHT if spread else _TOP))
    limit = bottom
    for index in reversed(range(len(spread))):
        spread[index] = min(spread[index], limit)
        limit = spread[index] - _LINE_HEIGHT
    return spread


def _x_axis(axis: _LinearAxis, label: str, x_text: Callable[[float], str], bottom: float) -> Iterator[str]:
    yield _line(_LEFT, bottom, _RIGHT, bottom)
    for mark in axis.marks():
        x = axis.position(mark)
        yield _line(x, bottom, x, bottom + 4)
        yield _text(x, bottom + 18, x_text(mark), 'text-anchor="middle"')
    yield _text((_LEFT + _RIGHT) / 2, bottom + 36, label, 'text-anchor="middle"')


def _y_axis(axis: _LogAxis, label: str) -> Iterator[str]:
    yield _line(_LEFT, axis.bottom, _LEFT, _TOP)
    for y, text in axis.marks():
        yield _line(_LEFT, y, _RIGHT, y, 'stroke-opacity="0.15"')
        yield _text(_LEFT - 6, y + 4, text, 'text-anchor="end"')
    middle = (axis.bottom + _TOP) / 2
    yield _text(0, 0, label, f'text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)"')


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" {more}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'
