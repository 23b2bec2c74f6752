"""Decode text files block by block, compressed or not, and cut them into lines; a file that is no text is refused."""

import codecs
import gzip
import zlib
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError, oneline

# Bytes of a file that are read at once, and that are checked before work starts.
BLOCK = 1 << 20
# The longest line or row in characters; a longer one is no document.
MAX_ROW = 100_000_000
# A compressed text is a fifth to a twentieth of its text. What expands more than this, and beyond so many bytes, is no
# text, and would be read for hours.
_MOST_EXPANDED = 100
_FREE = 16 << 20
# The marks with which editors begin a file, the longer ones first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def kind_of(path: Path) -> str:
    """Return the end of a file's name that says what it holds: ".jsonl", also for a compressed ".jsonl.gz"."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix == ".gz" else name.suffix


def text_of(path: Path) -> Generator[str, None, None]:
    """Read a file's text in blocks, without a mark of its encoding at the beginning.

    A file is in UTF-8 unless it begins with the mark of UTF-16 or UTF-32.

    Raises:
        ConfigError: its bytes are no text, or no sound gzip file, or one that expands without end.
    """
    decoder: Any = None
    encoding = "utf-8-sig"
    position = 0
    for block in _blocks(path):
        if decoder is None:
            encoding = next((name for mark, name in _MARKS if block.startswith(mark)), encoding)
            decoder = codecs.getincrementaldecoder(encoding)()
        zero = block.find(b"\0") if encoding == "utf-8-sig" else -1
        if zero >= 0:
            raise ConfigError(f"text file {path} is binary (a zero byte at {position + zero}): name a text file")
        # An empty block is the end: no character may be left half read.
        decode = partial(decoder.decode, final=not block)
        yield _decoded(path, block, position, encoding, decode)
        position += len(block)


def _decoded(path: Path, block: bytes, position: int, encoding: str, decode: Any) -> str:
    try:
        return str(decode(block))
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        where = f"byte 0x{error.object[error.start]:02x} near {position + error.start}"
        raise ConfigError(
            f"text file {path} is binary or not in {name} ({where}): name a text file, or save it as UTF-8"
        ) from error


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, expanded if it is compressed, and at last an empty block."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
        yield b""
        return
    most = max(_FREE, _MOST_EXPANDED * path.stat().st_size)
    size = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(BLOCK):
                size += len(block)
                if size > most:
                    raise ConfigError(
                        f"text file {path} expands to more than {_MOST_EXPANDED} times its size, which no text does: "
                        "unpack it and look at it"
                    )
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"text file {path} is no sound gzip file ({oneline(error)}): copy it again") from error
    yield b""


def lines_of(path: Path) -> Iterator[str]:
    """Read a file's lines, each with the line break that ends it.

    Raises:
        ConfigError: as `text_of`; a line has more than `MAX_ROW` characters.
    """
    number = 1
    parts: list[str] = []
    for block in text_of(path):
        *ended, rest = block.split("\n")
        for line in ended:
            yield "".join([*parts, line, "\n"])
            parts.clear()
            number += 1
        parts.append(rest)
        if sum(map(len, parts)) > MAX_ROW:
            raise ConfigError(f"line {number} of text file {path} has more than {MAX_ROW} characters: split it")
    if last := "".join(parts):
        yield last
