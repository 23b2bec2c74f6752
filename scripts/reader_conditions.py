"""What the reader contract says, and how `make readers` finds it again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtoolkit.readers.table import ENTRIES


@dataclass(frozen=True)
class Condition:
    """One thing that the table says, and how to find it in sources.

    Attributes:
        reader, what: for the line that is printed.
        table: what the table says.
        found: returns what the sources under a folder say.
        environment: of `make` in which it is run; empty where sources are read.
    """

    reader: str
    what: str
    table: Any
    found: Callable[[Path], Any]
    environment: str = ""


def allowed(reader: str, format_: str, field: str) -> set[Any]:
    """The values of a field that the table allows; empty where it has no such limit."""
    entry = next(entry for entry in ENTRIES if (entry.reader, entry.format) == (reader, format_))
    return {value for limit in entry.limits if limit.field == field for value in limit.allowed}
