"""Define the base class of records: conversion to a dict and back, text and HTML from the same rows."""

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

from qtoolkit.errors import ConfigError
from qtoolkit.records import html
from qtoolkit.units import format_bytes


class Row(NamedTuple):
    """Hold one line of a record: a label, the value as text with its unit, and a remark."""

    label: str
    value: str
    note: str = ""


class Grid(NamedTuple):
    """Hold a table of several columns: a title, the columns' names, and lines of cells; the first cell is a name."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def without_empty(self, name: str) -> "Grid":
        """Return the table without the column of this name if no line has anything in it; otherwise as it is."""
        column = self.header.index(name)
        if any(line[column] for line in self.lines):
            return self
        header, *lines = ((*line[:column], *line[column + 1 :]) for line in (self.header, *self.lines))
        return Grid(self.title, header, tuple(lines))

    def __str__(self) -> str:
        cells = [[" ".join(cell.splitlines()) for cell in line] for line in (self.header, *self.lines)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in cells]
        lines = ["  ".join(line).rstrip() for line in padded]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])


def row_if(label: str, value: str | None, note: str = "") -> tuple[Row, ...]:
    """Return one row, or none where the value is None or an empty text."""
    return (Row(label, value, note),) if value else ()


def size_row(label: str, size: int | None, note: str = "") -> tuple[Row, ...]:
    """Return one row with a size in bytes, or none where the size is None."""
    return row_if(label, None if size is None else format_bytes(size), note)


def note_rows(notes: Iterable[str]) -> tuple[Row, ...]:
    """Return one row labelled "note" for each text."""
    return tuple(Row("note", note) for note in notes)


@dataclass(frozen=True)
class Record:
    """Convert to and from JSON-ready dicts; base class of all records.

    A subclass is a frozen dataclass of plain values and other records, and defines `rows`.

    Attributes:
        schema_version: is raised when a change makes older files unreadable.
        added_fields: fields with a default that files of this version may lack, since they are newer than it.
        words: words of the rows that need one, with what they mean.
    """

    schema_version: ClassVar[int] = 1
    added_fields: ClassVar[frozenset[str]] = frozenset()
    words: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        # Set here so that `dataclass` does not generate its own: the fields of all layers would fill a screen.
        cls.__repr__ = Record.__str__  # type: ignore[assignment, method-assign]

    def rows(self) -> tuple[Row, ...]:
        """Return the record as lines of text; its text and HTML are made from these and from `grids`."""
        raise NotImplementedError

    def headline(self) -> str:
        """Return the record in one sentence, which is shown first; "" where its rows are few."""
        return ""

    def grids(self) -> tuple[Grid, ...]:
        """Return tables of several columns, shown below the rows; most records have none."""
        return ()

    def picture(self) -> str:
        """Return HTML of a chart shown above the rows, or "". Its figures are all in `rows` or `grids` too."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values, with its class name and schema version."""
        values = {field.name: _encode(getattr(self, field.name)) for field in fields(self)}
        return {"record": type(self).__name__, "schema_version": self.schema_version, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the record that a dict from `to_dict` describes; `added_fields` may be missing.

        Raises:
            ConfigError: it is no dict, describes another record or schema version, lacks a field, has an unknown one,
                or a value has the wrong type.
        """
        expected = f"expected {cls.__name__} of schema version {cls.schema_version}"
        if not isinstance(values, Mapping):
            raise ConfigError(f"{expected} as a dict, got {type(values).__name__}")
        name, version = values.get("record"), values.get("schema_version")
        if (name, version) != (cls.__name__, cls.schema_version):
            raise ConfigError(f"{expected}, got {name!r:.40} of {version!r:.40}: it was made by another qtoolkit")
        names = {field.name for field in fields(cls)}
        given = set(values) - {"record", "schema_version"}
        odd = names.symmetric_difference(given) - (cls.added_fields - given)
        if odd:
            state = "lacks" if min(odd, key=str) in names else "has no"
            raise ConfigError(f"{cls.__name__} {state} field {min(odd, key=str)!r:.40}: its fields are {sorted(names)}")
        hints = typing.get_type_hints(cls)
        return cls(**{name: _decode(f"{cls.__name__}: {name}", hints[name], values[name]) for name in names & given})

    def __str__(self) -> str:
        rows = self.rows()
        width = max((len(row.label) for row in rows), default=0)
        lines = [f"{row.label:<{width}}  {row.value}" + (f"  ({row.note})" if row.note else "") for row in rows]
        headline = self.headline()
        head = [type(self).__name__, *([f"  {headline}"] if headline else [])]
        words = [f"  {word}: {meaning}" for word, meaning in self.words.items()]
        shown = "\n".join([*head, *(f"  {line}" for line in lines), *words, *map(str, self.grids())])
        return html.visible(shown)

    def table(self) -> str:
        """Return the rows alone as HTML."""
        return html.table(type(self).__name__, self.rows())

    def _repr_html_(self) -> str:
        below = "".join(html.grid(*grid) for grid in self.grids())
        return html.report(
            type(self).__name__, self.headline(), self.rows(), picture=self.picture(), below=below, words=self.words
        )


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    return value


def _decode(what: str, hint: Any, value: Any) -> Any:
    """Return `value` as the type that a record's field is annotated with; `what` names the field in errors."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        # Of None and plain types, the one that the value has.
        return value if type(value) in arguments else _decode(what, arguments[0], value)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_decode(what, arguments[0], item) for item in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _decode(what, arguments[1], item) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{what} must be a number that a float can be, got one of 300 digits or more") from error
    if hint is Any or (
        isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    ):
        return value
    expected = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{what} must be {expected}, got {value!r:.60}")
