"""Take the values of a `.gguf` file's header one after the other, none of them beyond the bytes that there are."""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import CheckpointError

if TYPE_CHECKING:
    import mmap

# A vocabulary of 262,144 words with its merges takes 1,300,000 entries.
_MAX_ENTRIES = 3_000_000
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
# The longest array of numbers that is returned: one number for each layer. Longer ones belong to the vocabulary.
_MAX_LIST = 1000
# The longest text that is returned; chat templates are longer. And how many of an array; vocabularies have more.
_MAX_TEXT, _MAX_TEXTS = 1000, 100


class HeaderParser:
    """Take one value of a header after the other, and raise where the header's bytes end.

    Args:
        file: named in errors.
        data: the first bytes of the file.
        whole: keys of texts and arrays that are returned however long they are.

    Attributes:
        position: of the next value.
        is_cut: whether an error was raised because the header goes on after these bytes.
    """

    def __init__(self, file: Path, data: "bytes | mmap.mmap", *, whole: Collection[str] = ()) -> None:
        self.file = file
        self.position = 0
        self.is_cut = False
        self._data = data
        self._whole = whole
        self._entries = 0

    def lying(self, what: str) -> CheckpointError:
        """Return the error of a header that cannot be true."""
        return CheckpointError(f"cannot read {self.file} ({what}): name another file, or download it again")

    def take(self, kind: str) -> Any:
        """Take the next value, of a `struct` type."""
        return self._numbers(f"<{kind}")[0]

    def times(self, count: int) -> Iterator[int]:
        """Return a range of a count in the file, once the sum of all counts so far is within its limit."""
        self._entries += count
        if self._entries > _MAX_ENTRIES:
            raise self.lying(f"its header is said to have {self._entries} entries, more than {_MAX_ENTRIES}")
        return iter(range(count))

    def text(self, most: int, what: str) -> str:
        """Take the next string, a name.

        Args:
            most: bytes that it may have.
            what: it is called in the error.
        """
        length = self.take("Q")
        if not 0 < length <= most:
            raise self.lying(f"{what} has {length} bytes, and none has more than {most} or none")
        self._skip(length)
        raw = self._data[self.position - length : self.position]
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise self.lying(f"{what} is no UTF-8: {raw!r:.60}") from error
        if not text.isprintable():
            raise self.lying(f"{what} has characters that no name has: {text!r:.60}")
        return text

    def value(self, kind: int, key: str) -> Any:
        """Take the next value of a type of the format: a number, a short text, or an array of a few of them.

        Args:
            kind: the number of the type.
            key: of the value, for errors.

        Returns:
            The value, a list of up to 1,000 numbers, or a tuple of up to 100 texts; None for a longer text or array
            whose key is not among those of whole ones.
        """
        is_whole = key in self._whole
        most = _MAX_ENTRIES if is_whole else _MAX_TEXT
        if kind in _SCALARS:
            return self._scalar(kind, key)
        if kind == _STRING:
            return self._text_up_to(most)
        if kind != _ARRAY:
            raise self.lying(f"{key!r:.80} has the type {kind}, which is none")
        inner, count = self.take("I"), self.take("Q")
        items = self.times(count)
        if inner == _BOOL and count <= _MAX_LIST:
            return [self._scalar(inner, key) for _ in items]
        if inner in _SCALARS and (is_whole or count <= _MAX_LIST):
            return list(self._numbers(f"<{count}{_SCALARS[inner]}"))
        if inner in _SCALARS:
            self._skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
        elif inner == _STRING and (is_whole or count <= _MAX_TEXTS):
            return tuple(self._text_up_to(most) or "" for _ in items)
        elif inner == _STRING:
            self._skip_texts(count)
        else:
            what = "arrays" if inner == _ARRAY else f"values of the type {inner}, which is none"
            raise self.lying(f"{key!r:.80} is an array of {what}")
        return None

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        """Take what a layout of `struct` describes."""
        size = struct.calcsize(layout)
        self._skip(size)
        return struct.unpack_from(layout, self._data, self.position - size)

    def _scalar(self, kind: int, key: str) -> int | float | bool:
        """Take a number or a bool."""
        value: int | float = self.take(_SCALARS[kind])
        if kind != _BOOL:
            return value
        if value > 1:
            raise self.lying(f"{key!r:.80} is a bool of the value {value}")
        return bool(value)

    def _text_up_to(self, most: int) -> str | None:
        """Take a text; None for one of more bytes."""
        length = self.take("Q")
        self._skip(length)
        raw = self._data[self.position - length : self.position] if length <= most else None
        return None if raw is None else raw.decode(errors="replace")

    def _skip_texts(self, count: int) -> None:
        """Skip strings, some hundred thousand in a vocabulary."""
        data, position, end = self._data, self.position, len(self._data)
        for _ in range(count):
            position += 8 + int.from_bytes(data[position : position + 8], "little")
            if position > end:
                break
        self.position = position
        self._skip(0)

    def _skip(self, count: int) -> None:
        """Move on by a number of bytes.

        Raises:
            CheckpointError: the data ends before.
        """
        self.position += count
        if self.position > len(self._data):
            self.is_cut = True
            raise self.lying(f"its header does not end within {len(self._data)} bytes")
