"""Write records as self-contained HTML, without scripts or style sheets, so that exported notebooks show the same.

JupyterLab shows a notebook of somebody else, which every fresh clone is, without SVG and without most of CSS: pictures
are tables whose cells have a width. Text has the page's colour, and bars one that both light and dark themes show.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as escape_markup
from types import MappingProxyType

_CELL = "text-align:left;padding:1px 16px 1px 0;font-weight:normal;vertical-align:top"
# Jupyter's own style sheet centres tables and gives all columns one width.
_TABLE = "border:none;margin:0;table-layout:auto"
_PICTURE = "border:none;margin:6px 0;width:100%;max-width:600px;table-layout:auto"
_TRACK = "height:12px;border-radius:3px;background-color:rgba(128,128,128,0.2)"
# At least 3 to 1 against white and against JupyterLab's dark grey, as WCAG asks of graphics.
_BAR = "height:12px;border-radius:3px;background-color:rgb(74,139,208)"
_CAPTION = "caption-side:top;text-align:left;padding:2px 0;opacity:.8;white-space:normal"
_HEADLINE = "font-weight:bold;font-size:1.1em;margin:4px 0 8px 0;max-width:72em"
# How a value begins that must not be overlooked.
FAILED = "FAILED"
# Beside what failed; as much contrast as bars have.
_STOP = ";border-left:4px solid rgb(211,47,47);padding-left:8px"
# Cells of at most so many characters hold figures rather than sentences.
_MAX_FIGURE_CHARS = 24
# Characters that move a terminal's cursor or reorder letters; the names in a record may come from anybody.
_CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Replace the control characters of a text by escapes; line breaks and tabs stay.

    Example:
        >>> print(visible("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return _CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], text)


def escape(text: str) -> str:
    """Return HTML that shows a text literally."""
    return escape_markup(visible(text))


def report(
    title: str,
    headline: str,
    rows: Iterable[Sequence[str]],
    picture: str = "",
    below: str = "",
    words: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a record as HTML; all text is escaped.

    Args:
        title: what it is.
        headline: the record in one sentence, below which the rows are folded; empty to show them.
        rows: the lines, as `table` takes them.
        picture, below: HTML put before and after the rows, not escaped.
        words: words of the rows, each with what it means.
    """
    meanings = "".join(
        f'<div style="opacity:.8"><i>{escape(word)}</i>: {escape(meaning)}</div>' for word, meaning in words.items()
    )
    if not headline:
        return table(title, rows, picture, meanings + below)
    lines = table(title, rows)
    return (
        f'<div><div style="{_HEADLINE}{_STOP * headline.startswith("✖")}">{escape(headline)}</div>{picture}{below}'
        f'<details style="margin-top:6px"><summary style="cursor:pointer">All figures</summary>'
        f"{lines}{meanings}</details></div>"
    )


def table(title: str, rows: Iterable[Sequence[str]], picture: str = "", below: str = "") -> str:
    """Return rows of (label, value, note) as an HTML table below a title and a picture; all text is escaped.

    Args:
        title: the heading.
        rows: the lines.
        picture, below: HTML put before and after the table, not escaped.
    """
    lines = []
    for label, value, note in rows:
        shown = f"<b>✖ {escape(value)}</b>" if value.startswith(FAILED) else escape(value)
        remark = f' <span style="opacity:.7">({escape(note)})</span>' if note else ""
        lines.append(
            f'<tr style="background:none"><th scope="row" style="{_CELL};opacity:.8">{escape(label)}</th>'
            f'<td style="{_CELL};overflow-wrap:anywhere">{shown}{remark}</td></tr>'
        )
    return (
        f'<div><div style="font-weight:bold">{escape(title)}</div>{picture}'
        f'<table aria-label="{escape(title)}" style="{_TABLE}">{"".join(lines)}</table>{below}</div>'
    )


def grid(title: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table of several columns below its title; the first cell of a line is its name. All text is escaped."""
    heads = "".join(f'<th scope="col" style="{_CELL};opacity:.8">{escape(name)}</th>' for name in header)
    rows = []
    for name, *cells in lines:
        rest = "".join(f'<td style="{_CELL};white-space:{_space(cell)}">{escape(cell)}</td>' for cell in cells)
        rows.append(f'<tr style="background:none"><th scope="row" style="{_CELL}">{escape(name)}</th>{rest}</tr>')
    # A table wider than the page scrolls by itself.
    return (
        f'<div style="overflow-x:auto;margin-top:8px"><div style="opacity:.8">{escape(title)}</div>'
        f'<table aria-label="{escape(title)}" style="{_TABLE}"><tr style="background:none">{heads}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def list_of(title: str, lines: Iterable[str]) -> str:
    """Return lines of text below one another, named for screen readers; all text is escaped."""
    items = "".join(f'<li style="margin:2px 0">{escape(line)}</li>' for line in lines)
    return f'<ul aria-label="{escape(title)}" style="margin:4px 0;padding-left:20px">{items}</ul>'


def _space(cell: str) -> str:
    """Return the CSS `white-space` of a cell: a figure stays on one line with its unit, a text keeps line breaks."""
    return "nowrap" if len(cell) <= _MAX_FIGURE_CHARS else "pre-wrap"


def bars(title: str, items: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars, each with its label and value as text at its sides.

    Args:
        title: what the picture shows, written above it.
        items: (label, length, value as text), drawn to one scale in this order.
    """
    longest = max((length for _, length, _ in items), default=0) or 1
    lines = []
    for label, length, text in items:
        # A bar longer than 0 is visible, however short it is.
        percent = max(0.6, 100 * length / longest) if length else 0.0
        lines.append(
            f'<tr style="background:none"><th scope="row" style="{_CELL};white-space:nowrap">{escape(label)}</th>'
            f'<td style="width:60%;padding:3px 12px 3px 0"><div style="{_TRACK}">'
            f'<div style="{_BAR};width:{percent:.2f}%"></div></div></td>'
            f'<td style="{_CELL};white-space:nowrap">{escape(text)}</td></tr>'
        )
    caption = f'<caption style="{_CAPTION}">{escape(title)}</caption>'
    return f'<table style="{_PICTURE}">{caption}{"".join(lines)}</table>'
