"""Write text, tables and lists in Markdown, whatever characters they hold."""

import re
from collections.abc import Iterable, Sequence

# What Markdown would take for more than text; a link or a picture needs its bracket, a heading its sign.
_MARKED = re.compile(r"([\\`*_\[\]#|~$])")
# What begins a list.
_ITEM = re.compile(r"^(\d*)([-+.)])(?=\s|$)")


def escaped(text: str) -> str:
    r"""Return a text, on one line, such that Markdown shows it unchanged.

    Example:
        >>> print(escaped("a_b <b> | [x](y)"))
        a\_b &lt;b&gt; \| \[x\](y)
    """
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _ITEM.sub(r"\1\\\2", _MARKED.sub(r"\\\1", plain))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a header; the cells of `rows` are escaped, `head` is not."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(escaped, row))} |" for row in rows)])


def listed(lines: Iterable[str]) -> str:
    """Return a bulleted list with one item for each line; the lines are escaped."""
    return "\n".join(f"- {escaped(line)}" for line in lines)
