"""Write records as self-contained HTML, without scripts or style sheets, so that exported notebooks show the same.

Colours are those of the page (`currentColor`), so that light and dark themes both work.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape as escape_markup

_CELL = "text-align:left;padding:1px 16px 1px 0;font-weight:normal;vertical-align:top"
# Jupyter's own style sheet centres tables and gives all columns one width.
_TABLE = "border:none;margin:0;table-layout:auto"
_GRID = (
    "display:grid;grid-template-columns:fit-content(40%) minmax(40px,1fr) fit-content(40%);"
    "gap:4px 10px;align-items:center;max-width:560px;margin:6px 0"
)
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


def table(title: str, rows: Iterable[Sequence[str]], picture: str = "", below: str = "") -> str:
    """Return rows of (label, value, note) as an HTML table below a title and a picture; all text is escaped.

    Args:
        title: the heading.
        rows: the lines.
        picture, below: HTML put before and after the table, not escaped.
    """
    lines = []
    for label, value, note in rows:
        remark = f' <span style="opacity:.7">({escape(note)})</span>' if note else ""
        lines.append(
            f'<tr style="background:none"><th scope="row" style="{_CELL};opacity:.8">{escape(label)}</th>'
            f'<td style="{_CELL};overflow-wrap:anywhere">{escape(value)}{remark}</td></tr>'
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


def _space(cell: str) -> str:
    """Return the CSS `white-space` of a cell: a figure stays on one line with its unit, a text keeps line breaks."""
    return "nowrap" if len(cell) <= _MAX_FIGURE_CHARS else "pre-wrap"


def bars(title: str, items: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars as inline SVG, each with its label and value as text at its sides.

    The text is HTML, not SVG: it wraps, screen readers read it, and it stays if a notebook viewer removes pictures.

    Args:
        title: what the picture shows, for screen readers.
        items: (label, length, value as text), drawn to one scale in this order.
    """
    longest = max((length for _, length, _ in items), default=0) or 1
    parts = []
    for label, length, text in items:
        # A bar longer than 0 is visible, however short it is.
        percent = max(0.4, 100 * length / longest) if length else 0.0
        parts.append(
            # In a cell of its own: the columns stay if a viewer removes the picture.
            f'<div>{escape(label)}</div><div><svg width="100%" height="14" fill="currentColor" aria-hidden="true">'
            f'<rect width="100%" height="14" fill-opacity="0.1"/>'
            f'<rect width="{percent:.2f}%" height="14" fill-opacity="0.65"/></svg></div><div>{escape(text)}</div>'
        )
    return f'<div role="figure" aria-label="{escape(title)}" style="{_GRID}">{"".join(parts)}</div>'
