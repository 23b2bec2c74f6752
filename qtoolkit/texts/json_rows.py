"""Read the rows of JSON files one by one: one object a line, or one list of rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.texts.text_bytes import MAX_ROW, lines_of, text_of

# What a row is called in messages, and what it holds.
Row = tuple[str, Any]
# Keys under which a file may hold its list of rows.
_LISTS = ("data", "rows", "train")
_BLANK = " \t\r\n"
_WRITE_LINE = 'write one object a line, such as {"text": "..."}'
_WRITE_LIST = 'write a list of rows, such as [{"text": "..."}]'


def read_json_lines(path: Path) -> Iterator[Row]:
    """Read a file with one JSON value a line; blank lines are left out.

    Raises:
        ConfigError: a line is no JSON.
    """
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        where = f"line {number} of text file {path}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is no JSON ({oneline(error)}): {_WRITE_LINE}") from error


def read_json(path: Path) -> Iterator[Row]:
    """Read the rows of a JSON file: a list, a list under the key data, rows or train, or one object after the other.

    One row is in memory at a time, and a list under a key as a whole.

    Raises:
        ConfigError: it is no JSON, or its rows are longer than `MAX_ROW`.
    """
    values = _Values(path)
    number = 0
    if values.skip("["):
        while not values.skip("]"):
            number += 1
            yield f"row {number} of text file {path}", values.take(number)
            values.skip(",")
        if values.has_more():
            raise ConfigError(f"text file {path} goes on after its list of {number} rows: {_WRITE_LIST}, and only one")
        return
    while values.has_more():
        value = values.take(number + 1)
        lists = [value[key] for key in _LISTS if isinstance(value, dict) and isinstance(value.get(key), list)]
        for row in lists[0] if lists else [value]:
            number += 1
            yield f"row {number} of text file {path}", row


class _Values:
    """Decode the JSON values of a file one by one, from as much of its text as each takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks = text_of(path)
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder()

    def has_more(self) -> bool:
        """Go to the next character that is not blank, and tell whether there is one."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return True
            if not self._read(1):
                return False

    def skip(self, sign: str) -> bool:
        """Skip a sign if it comes next, and tell whether it did."""
        found = self.has_more() and self._text[self._at] == sign
        self._at += found
        return found

    def take(self, number: int) -> Any:
        """Return the next value, row `number` of the file."""
        while True:
            try:
                self.has_more()
                value, self._at = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                # It may go on in what is not read yet. Reading as much again keeps the attempts few.
                length = len(self._text) - self._at
                if isinstance(error, ValueError) and length < MAX_ROW and self._read(length):
                    continue
                where = f"row {number} of text file {self._path}"
                if length >= MAX_ROW:
                    raise ConfigError(f"{where} has more than {MAX_ROW} characters: save it as .jsonl") from error
                raise ConfigError(f"{where} is no JSON ({oneline(error)}): {_WRITE_LIST}") from error
            return value

    def _read(self, count: int) -> bool:
        """Add at least `count` characters to the text, or what is left of the file; tell whether there were any."""
        parts = [self._text[self._at :]]
        added = 0
        for block in self._blocks:
            parts.append(block)
            added += len(block)
            if added >= count:
                break
        self._text, self._at = "".join(parts), 0
        return added > 0
