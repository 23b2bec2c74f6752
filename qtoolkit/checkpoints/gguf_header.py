"""Read the header of a `.gguf` file and check its counts and lengths, before another reader relies on them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (a count of values and tensors, each value with its
type, strings and arrays with their lengths, each tensor with its shape). Other readers loop as often as a count says:
2**64 times in a file of a hundred bytes, or for as many entries as a sparse file has room for.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtoolkit.errors import CheckpointError

# A vocabulary of 262,144 words with its merges takes 12 MB and 1,300,000 entries.
_MAX_BYTES, _MAX_ENTRIES, _MAX_DIMENSIONS = 64_000_000, 3_000_000, 8
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# The longest array of numbers that is returned: one number for each layer. Longer ones belong to the vocabulary.
_MAX_LIST = 1000
# Names of the format -> names in configs.
_CONFIG_NAMES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "value_dim",
    "rope.dimension_count": "rope_dim",
    "expert_count": "num_experts",
}


@dataclass(frozen=True)
class GGUFTensor:
    """The header of one tensor.

    Attributes:
        shape: the sizes of its dimensions, in the file's order.
    """

    shape: tuple[int, ...]


def read_gguf_header(file: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Read the header of a file; no weight is read.

    Returns:
        The numbers that describe the model, named as in a config, and the tensors by name.

    Raises:
        CheckpointError: it cannot be read, or its counts and lengths are not those of its bytes.
    """
    try:
        with file.open("rb") as stream:
            size = min(os.fstat(stream.fileno()).st_size, _MAX_BYTES)
            # Of gigabytes, only the pages of the header are read. An empty file cannot be mapped.
            with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) if size else nullcontext(b"") as data:
                return _parse(_Parser(file, data))
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror}): check its permissions") from error


def _parse(parser: "_Parser") -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """Parse a header from its first byte; returns and raises as `read_gguf_header`."""
    if parser.take("4s") != b"GGUF" or parser.take("I") not in _VERSIONS:
        raise parser.lying(f"it does not begin as version {' or '.join(map(str, _VERSIONS))}")
    num_tensors = parser.take("Q")
    num_values = parser.take("Q")
    values = {}
    for _ in parser.times(num_values):
        key = parser.text()
        value = parser.value(parser.take("I"))
        name = key.partition(".")[2]
        if isinstance(value, int | float | list) and not key.startswith(("general.", "tokenizer.")):
            values[_CONFIG_NAMES.get(name, name)] = value
    tensors = {}
    for _ in parser.times(num_tensors):
        name = parser.text()
        dimensions = parser.take("I")
        if dimensions > _MAX_DIMENSIONS:
            raise parser.lying(f"a tensor has {dimensions} dimensions")
        shape = tuple(parser.take("Q") for _ in range(dimensions))
        parser.take("I")  # its type
        parser.take("Q")  # its offset
        if math.prod(size or 1 for size in shape) >= 2**63:
            raise parser.lying(f"a tensor has the shape {shape}")
        tensors[name] = GGUFTensor(shape)
    return values, tensors


class _Parser:
    """Take one value of a header after the other, and raise where the header's bytes end.

    Args:
        file: named in errors.
        data: the first bytes of the file.
    """

    def __init__(self, file: Path, data: "bytes | mmap.mmap") -> None:
        self._file = file
        self._data = data
        self._position = 0
        self._entries = 0

    def lying(self, what: str) -> CheckpointError:
        """Return the error of a header that cannot be true."""
        return CheckpointError(f"cannot read {self._file} ({what}): name another file, or download it again")

    def take(self, kind: str) -> Any:
        """Take the next value, of a `struct` type."""
        self._skip(struct.calcsize(kind))
        return struct.unpack_from(f"<{kind}", self._data, self._position - struct.calcsize(kind))[0]

    def times(self, count: int) -> Iterator[int]:
        """Return a range of a count in the file, once the sum of all counts so far is within its limit."""
        self._entries += count
        if self._entries > _MAX_ENTRIES:
            raise self.lying(f"its header is said to have {self._entries} entries, more than {_MAX_ENTRIES}")
        return iter(range(count))

    def text(self) -> str:
        """Take the next string."""
        length = self.take("Q")
        self._skip(length)
        return self._data[self._position - length : self._position].decode(errors="replace")

    def value(self, kind: int) -> Any:
        """Take the next value of a type of the format: a number, or a list of at most 1,000; None for all others."""
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            self._skip(self.take("Q"))
            return None
        if kind != _ARRAY:
            raise self.lying(f"a value has the type {kind}")
        inner, count = self.take("I"), self.take("Q")
        items = self.times(count)
        if inner in _SCALARS and count <= _MAX_LIST:
            return [self.take(_SCALARS[inner]) for _ in items]
        if inner in _SCALARS:
            self._skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            self._skip_texts(count)
        else:
            raise self.lying(f"an array holds values of the type {inner}")
        return None

    def _skip_texts(self, count: int) -> None:
        """Skip strings, some hundred thousand in a vocabulary."""
        data, position, end = self._data, self._position, len(self._data)
        for _ in range(count):
            position += 8 + int.from_bytes(data[position : position + 8], "little")
            if position > end:
                break
        self._position = position
        self._skip(0)

    def _skip(self, count: int) -> None:
        """Move on by a number of bytes.

        Raises:
            CheckpointError: the data ends before.
        """
        self._position += count
        if self._position > len(self._data):
            raise self.lying(f"its header does not end within {len(self._data)} bytes")
