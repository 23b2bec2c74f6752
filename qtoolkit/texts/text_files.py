"""Check text files by their beginning, and read them row by row: plain text, JSON, tables, and folders of them."""

import csv
import importlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import ConfigError, oneline
from qtoolkit.optional import optional
from qtoolkit.texts import text_bytes
from qtoolkit.texts.json_rows import Row, read_json, read_json_lines
from qtoolkit.texts.text_bytes import MAX_ROW, kind_of, lines_of, text_of
from qtoolkit.texts.text_rows import RowReader, choose_kind

# Documents one after the other, each as strings that together are its text.
Documents = Generator[Iterable[str], None, None]
# Rows of a Parquet file that are read at once.
_ROWS = 256
# What a folder of data holds beside it.
_ABOUT = ("readme", "license", "licence", "dataset_info")
_CSV_COLUMNS = ("text", "content")


def check_file(path: Path, column: str | None = None) -> None:
    """Refuse a file, or a folder of files, whose names or beginnings show that they hold no text.

    Args:
        path: the file or the folder.
        column: the column to read; None to choose one by its name.

    Raises:
        ConfigError: not a file of a known kind, not readable, empty or binary; rows without a text or a chat.
        MissingDependencyError: a .parquet file without the package pyarrow.
    """
    if path.is_dir():
        for file in files_of(path):
            check_file(file, column)
        return
    if not path.is_file():
        raise ConfigError(f"text file {path} is no file: name a file ({KINDS}), or a folder of them")
    if problem := lfs_problem(path):
        raise ConfigError(f"text file {problem}")
    if not _is_known(path):
        raise ConfigError(f"text file {path} is of no known kind: it must end in {KINDS}")
    try:
        size = path.stat().st_size
        with closing(read_file(path, RowReader(path.name, column))) as documents:
            for strings in documents:
                if any(string.strip() for string in strings):
                    return
                if size > text_bytes.BLOCK:
                    return  # the rest is checked when it is read
    except OSError as error:
        raise _unreadable(path, error) from error
    raise ConfigError(f"text file {path} is empty: name another file, or 'self'")


def files_of(folder: Path) -> list[Path]:
    """Return the files with text in a folder and the folders in it, by name; what is hidden or describes it is not.

    Raises:
        ConfigError: there are none.
    """
    files = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    found = sorted(file for file in shown if _is_known(file) and not file.name.lower().startswith(_ABOUT))
    if not found:
        raise ConfigError(f"text folder {folder} holds no file that ends in {KINDS}: name another folder, or a file")
    return found


def read_file(path: Path, reader: RowReader) -> Documents:
    """Read the documents of a file: a plain text is one, as is a row of any other kind.

    Args:
        path: the file.
        reader: reads its rows.

    Raises:
        ConfigError: it turns out to be binary, or holds no text where text is expected.
    """
    try:
        if is_plain(path):
            if reader.column is not None:
                raise ConfigError(f"text file {path} has no columns: leave out calibration_column={reader.column!r}")
            yield text_of(path)
            return
        for where, row in _READERS[kind_of(path)](path, reader):
            text = reader(where, row)
            if text is not None:
                yield (text,)
    except OSError as error:
        raise _unreadable(path, error) from error


def is_plain(path: Path) -> bool:
    """Check by its name whether a file is one plain text, without rows."""
    return kind_of(path) in _PLAIN


def _is_known(path: Path) -> bool:
    kind = kind_of(path)
    return kind in _PLAIN or (kind in _READERS and (kind != ".parquet" or path.suffix.lower() != ".gz"))


def _read_table(path: Path, reader: RowReader) -> Iterator[Row]:
    """Read a .csv or .tsv file, whose first line names its columns."""
    rows = csv.reader(lines_of(path), "excel-tab" if kind_of(path) == ".tsv" else "excel")
    header = _next_row(path, rows)
    if header is None:
        return
    what = f"text file {path}, whose first line names its columns,"
    if not all(header) or len(set(header)) < len(header):
        raise ConfigError(f"{what} has columns without a name, or of one name: write a first line such as text")
    texts = [name for name in header if name in (*_CSV_COLUMNS, reader.column)]
    reader.kind = choose_kind(header, texts, reader.column, what)
    number = 1
    while (row := _next_row(path, rows)) is not None:
        number += 1
        if not row:
            continue
        where = f"row {number} of text file {path}"
        if len(row) != len(header):
            raise ConfigError(
                f"{where} has {len(row)} values, and its first line {len(header)}: put quotes around texts"
            )
        yield where, dict(zip(header, row, strict=True))


def _next_row(path: Path, rows: Any) -> list[str] | None:
    """Return the next row of a table; None at its end. The package csv has one limit on values for all that use it."""
    limit = csv.field_size_limit(MAX_ROW)
    try:
        return next(rows, None)
    except csv.Error as error:
        what = f"text file {path} is no sound table near line {rows.line_num}"
        raise ConfigError(f"{what} ({oneline(error)}): save it anew, with quotes around texts") from error
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, reader: RowReader) -> Iterator[Row]:
    arrow = optional("pyarrow", f"reading {path.name}")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            texts = [
                field.name
                for field in schema
                if arrow.types.is_string(field.type) or arrow.types.is_large_string(field.type)
            ]
            kind = reader.kind = choose_kind(list(schema.names), texts, reader.column, f"text file {path}")
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS, columns=[*kind.needed, *kind.wanted]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number} of text file {path}", row
    except arrow.ArrowException as error:
        what = lfs_problem(path) or f"text file {path} is no sound Parquet file ({oneline(error)}): copy it again"
        raise ConfigError(what) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"text file {path} cannot be read ({error.strerror}): check its permissions")


_PLAIN = (".txt", ".md", ".raw")
_READERS: dict[str, Callable[[Path, RowReader], Iterator[Row]]] = {
    ".json": lambda path, _: read_json(path),
    ".jsonl": lambda path, _: read_json_lines(path),
    ".csv": _read_table,
    ".tsv": _read_table,
    ".parquet": _read_parquet,
}
KINDS = f"{', '.join((*_PLAIN, *_READERS))}; .gz behind all but .parquet"
