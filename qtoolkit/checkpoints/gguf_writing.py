"""Write a `.gguf` file tensor by tensor: its sizes are known before the first weight is read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3: counts, values, a line on each tensor, and
the tensors' bytes, each at a multiple of 32.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtoolkit.files import open_new

if TYPE_CHECKING:
    from torch import Tensor

_VERSION = 3
_ALIGNMENT = 32
# The number of each type of value in the file, and its layout.
_KINDS = {"uint32": (4, "I"), "int32": (5, "i"), "float32": (6, "f"), "bool": (7, "?"), "string": (8, "")}
_ARRAY = 9


@dataclass(frozen=True)
class Value:
    """One value of the header.

    Attributes:
        kind: "uint32", "int32", "float32", "bool" or "string".
        content: the value; a tuple of them for an array.
    """

    kind: str
    content: Any


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file.

    Attributes:
        name: as llama.cpp calls it, "blk.0.attn_q.weight".
        shape: as torch has it, rows first.
        number: of its type, `enum ggml_type`.
        nbytes: its bytes.
    """

    name: str
    shape: tuple[int, ...]
    number: int
    nbytes: int


def gguf_bytes(values: Mapping[str, Value], tensors: Sequence[TensorEntry]) -> int:
    """Return the size of the file."""
    return len(_header(values, tensors)) + sum(map(_padded, (tensor.nbytes for tensor in tensors)))


def write_gguf(
    path: Path, values: Mapping[str, Value], tensors: Sequence[TensorEntry], read: Callable[[TensorEntry], "Tensor"]
) -> Iterator[TensorEntry]:
    """Write a file, yielding each tensor once it is written.

    Args:
        path: the file, which must not exist.
        values: of the header, by key.
        tensors: in the order in which they are written.
        read: returns the bytes of a tensor, uint8 of any shape; called once for each.

    Raises:
        ValueError: a tensor has another size than its entry says.
    """
    with open_new(path) as file:
        file.write(_header(values, tensors))
        for tensor in tensors:
            data = read(tensor).to("cpu").contiguous().reshape(-1)  # [bytes]
            if len(data) != tensor.nbytes:
                raise ValueError(f"{tensor.name} has {len(data)} bytes instead of {tensor.nbytes}")
            file.write(data.numpy().data)
            file.write(bytes(_padded(tensor.nbytes) - tensor.nbytes))
            del data  # before the next tensor is read
            yield tensor


def _header(values: Mapping[str, Value], tensors: Sequence[TensorEntry]) -> bytes:
    """Return everything before the first tensor's bytes."""
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(values))]
    for key, value in values.items():
        parts += [_text(key), _encoded(value)]
    position = 0
    for tensor in tensors:
        # The dimension along which values lie together comes first.
        dims = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        parts += [_text(tensor.name), dims, struct.pack("<IQ", tensor.number, position)]
        position += _padded(tensor.nbytes)
    header = b"".join(parts)
    return header + bytes(_padded(len(header)) - len(header))


def _encoded(value: Value) -> bytes:
    """Return a value with its type before it."""
    number, layout = _KINDS[value.kind]
    if not isinstance(value.content, tuple):
        return struct.pack("<I", number) + _items((value.content,), layout)
    return struct.pack("<IIQ", _ARRAY, number, len(value.content)) + _items(value.content, layout)


def _items(items: tuple[Any, ...], layout: str) -> bytes:
    return struct.pack(f"<{len(items)}{layout}", *items) if layout else b"".join(map(_text, items))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(count: int) -> int:
    """Return the next multiple of the alignment."""
    return -(-count // _ALIGNMENT) * _ALIGNMENT
