"""Check text files by their beginning, and read them piece by piece: plain text, JSON lines, Parquet."""

import codecs
import importlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import ConfigError, oneline
from qtoolkit.optional import optional

# Documents one after the other, each as strings that together are its text.
Documents = Generator[Iterable[str], None, None]
# Bytes of a file that are read at once, and that are checked before work starts.
_BLOCK = 1 << 20
# The longest line of JSON in bytes; a longer one is no document.
_MAX_LINE = 100_000_000
_LINE = 'one object a line, such as {"text": "..."}'
# Rows of a Parquet file that are read at once.
_ROWS = 256


def check_file(path: Path) -> None:
    """Refuse a file whose name or beginning shows that it holds no text.

    Raises:
        ConfigError: not a file of a known kind, not readable, empty or binary; no text under the key or column "text".
        MissingDependencyError: a .parquet file without the package pyarrow.
    """
    if not path.is_file():
        raise ConfigError(f"text file {path} is no file: name one of its files ({', '.join(READERS)})")
    if problem := lfs_problem(path):
        raise ConfigError(f"text file {problem}")
    if path.suffix.lower() not in READERS:
        raise ConfigError(f"text file {path} is of no known kind: it must end in {', '.join(READERS)}")
    try:
        size = path.stat().st_size
        for strings in READERS[path.suffix.lower()](path):
            if any(string.strip() for string in strings):
                return
            if size > _BLOCK:
                return  # the rest is checked when it is read
    except OSError as error:
        raise _unreadable(path, error) from error
    raise ConfigError(f"text file {path} is empty: name another file, or 'self'")


def read_file(path: Path) -> Documents:
    """Read the documents of a file: a plain text is one, as is a line of JSON or a row of a Parquet file.

    Raises:
        ConfigError: it turns out to be binary, or holds no text where text is expected.
    """
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_plain(path: Path) -> Documents:
    yield _blocks(path)


def _blocks(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    position = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield _decode(path, block, position, decoder.decode)
            position += len(block)
        yield _decode(path, b"", position, partial(decoder.decode, final=True))


def _decode(path: Path, block: bytes, position: int, decode: Callable[[bytes], str]) -> str:
    """Decode some bytes of a file.

    Raises:
        ConfigError: they are no text.
    """
    zero = block.find(b"\0")
    if zero >= 0:
        raise ConfigError(f"text file {path} is binary (a zero byte at {position + zero}): name a text file")
    try:
        return decode(block)
    except UnicodeDecodeError as error:
        where = f"byte 0x{error.object[error.start]:02x} near {position + error.start}"
        raise ConfigError(
            f"text file {path} is binary or not in UTF-8 ({where}): name a text file, or save it as UTF-8"
        ) from error


def _read_lines(path: Path) -> Documents:
    number = position = 0
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise ConfigError(f"line {number} of text file {path} has more than {_MAX_LINE} bytes: split it")
            text = _decode(path, line, position, lambda data: data.decode("utf-8-sig"))
            position += len(line)
            if text.strip():
                yield (_text_of_line(path, number, text),)


def _text_of_line(path: Path, number: int, line: str) -> str:
    where = f"line {number} of text file {path}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no JSON ({oneline(error)}): write {_LINE}") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ConfigError(f"{where} has no text under the key text: write {_LINE}")
    # JSON may hold half of a surrogate pair, which no tokenizer reads.
    return text.encode(errors="replace").decode()


def _read_parquet(path: Path) -> Documents:
    arrow = optional("pyarrow", f"reading {path.name}")
    parquet = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            column = _text_column(path, arrow, file.schema_arrow)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                yield from ((text,) for text in batch.column(0).to_pylist() if text is not None)
    except arrow.ArrowException as error:
        what = lfs_problem(path) or f"text file {path} is no sound Parquet file ({oneline(error)}): copy it again"
        raise ConfigError(what) from error


def _text_column(path: Path, arrow: Any, schema: Any) -> str:
    texts = [
        field.name for field in schema if arrow.types.is_string(field.type) or arrow.types.is_large_string(field.type)
    ]
    return text_column(texts, list(schema.names), f"text file {path}")


def text_column(texts: list[str], columns: list[str], what: str) -> str:
    """Choose the column "text" of a table, or else its only column with texts.

    Args:
        texts: names of the columns with texts.
        columns: names of all columns.
        what: a name for the table, for the message.

    Raises:
        ConfigError: there is no such column, or several.
    """
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        count = f"{len(texts)} columns" if texts else "no column"
        raise ConfigError(f"{what} has {count} of texts ({', '.join(columns):.200}): name the one to use text")
    return texts[0]


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"text file {path} cannot be read ({error.strerror}): check its permissions")


READERS: dict[str, Callable[[Path], Documents]] = {
    ".txt": _read_plain,
    ".md": _read_plain,
    ".raw": _read_plain,
    ".jsonl": _read_lines,
    ".parquet": _read_parquet,
}
