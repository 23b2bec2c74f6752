"""Offer the words that may stand at the cursor of a magic's line or body, to IPython 8.6 and newer, and to 7."""

import re
from collections.abc import Mapping
from typing import Any

from IPython.core import completer

from qtoolkit.notebook.body_words import body_words
from qtoolkit.notebook.lines import MAGICS
from qtoolkit.notebook.offered_words import Offered
from qtoolkit.notebook.option_line_words import line_words

_NAMES = "|".join(MAGICS)
# The line up to the cursor: also after `x = `, and without `%` at its start, where IPython's automagic adds it unless
# the name is a variable's: "quantize = 1", "quantize.x".
_COMPLETED = rf"(?:\s*(?={_NAMES})(?!\w+\s*(?:[^\w\s'\"./~-]|-(?!-)|\.))|.*?(%%?))({_NAMES})\s(.*)$"
_CELL = re.compile(rf"%%({_NAMES})\b")


def offered_at(text: str, row: int, column: int, variables: Mapping[str, Any]) -> Offered | None:
    """Return the words that may stand at the cursor; None where the text is not qtoolkit's.

    Args:
        text: the whole cell.
        row, column: where in it the cursor is, from 0.
        variables: the person's own.
    """
    lines = text.split("\n")
    cell = _CELL.match(lines[0])
    if cell is not None and row > 0:
        return body_words(cell[1], lines[1:], row - 1, column)
    before, whole = lines[row][:column], lines[row]
    while row > 0 and lines[row - 1].endswith("\\"):
        row -= 1
        before, whole = f"{lines[row][:-1]} {before}", f"{lines[row][:-1]} {whole}"
    match = re.match(_COMPLETED, before)
    return None if match is None else line_words(match[2], match[3], whole, variables, in_cell=match[1] == "%%")


class Matcher:
    """Offer qtoolkit's words alone: IPython's own of the same place, such as Python's names, are left out.

    Args:
        shell: the IPython shell, of 8.6 or newer.
    """

    matcher_api_version = 2
    matcher_identifier = "qtoolkit"
    matcher_priority = 1000

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        # IPython takes matchers for functions.
        self.__qualname__ = self.matcher_identifier

    def __call__(self, context: Any) -> dict[str, Any]:
        """Return the words for IPython's `CompletionContext`, in the order in which they are to be shown."""
        place = (context.cursor_line, context.cursor_position)
        offered = offered_at(context.full_text, *place, self._shell.user_ns)
        if offered is None:
            return {"completions": [], "suppress": False}
        return {
            "completions": [completer.SimpleCompletion(word, type=offered.kind) for word in _shown(offered)],
            "matched_fragment": offered.fragment,
            "suppress": True,
            "ordered": True,
        }


def _shown(offered: Offered) -> list[str]:
    """Return the words to show; IPython leaves its own out only where there is one: what is typed changes nothing."""
    return offered.fitting() or [offered.fragment]


def cell_completer(shell: Any) -> Any:
    """Return what completes in IPython 7, which tells its hooks of one line, not of the cell that it is in.

    Args:
        shell: the IPython shell, whose completer is asked where a text is not qtoolkit's.
    """
    otherwise = shell.Completer._complete  # noqa: SLF001

    def complete(*, cursor_line: int, cursor_pos: int | None, full_text: str | None = None, **line: Any) -> Any:
        """Return the text that words replace, the words, who offers each, and what jedi offers."""
        # A terminal gives the line alone.
        text = full_text or line.get("line_buffer") or ""
        row = cursor_line if full_text else 0
        offered = None if cursor_pos is None else offered_at(text, row, cursor_pos, shell.user_ns)
        if offered is None:
            return otherwise(cursor_line=cursor_line, cursor_pos=cursor_pos, full_text=full_text, **line)
        words = _shown(offered)
        return offered.fragment, words, [Matcher.matcher_identifier] * len(words), ()

    return complete


def install(shell: Any) -> None:
    """Let a shell complete qtoolkit's lines."""
    if _has_matchers():
        shell.Completer.custom_matchers.append(Matcher(shell))
    else:
        shell.Completer._complete = cell_completer(shell)  # noqa: SLF001


def remove(shell: Any) -> None:
    """Take away what `install` added."""
    if _has_matchers():
        shell.Completer.custom_matchers[:] = [
            one for one in shell.Completer.custom_matchers if not isinstance(one, Matcher)
        ]
    else:
        vars(shell.Completer).pop("_complete", None)


def _has_matchers() -> bool:
    """Check whether IPython is 8.6 or newer."""
    return hasattr(completer, "SimpleCompletion")
