"""Write text and tables in Markdown, whatever characters they hold."""

import re
from collections.abc import Iterable, Sequence

# Characters that Markdown would not show as text. Without its bracket a link is none, nor a heading without its sign.
_MARKED = re.compile(r"([\\`*_\[\]#|~$])")
# How an item of a list begins.
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
