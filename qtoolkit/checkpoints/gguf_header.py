"""Read the header of a `.gguf` file: the numbers that describe its model, and where its tensors lie; no weight is read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (a count of tensors and values, each value with its
type, strings and arrays with their lengths, each tensor with its shape, type and offset). Other readers loop as often
as a count says: 2**64 times in a file of a hundred bytes, or for as many entries as a sparse file has room for.
"""

import math
import mmap
import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints.gguf_parser import HeaderParser
from qtoolkit.checkpoints.gguf_types import OLD_MAGICS, REMOVED_TYPES, STORED_TYPES, StoredType
from qtoolkit.checkpoints.remedy import lfs_problem
from qtoolkit.errors import CheckpointError, UnsupportedModelError

# A vocabulary of 262,144 words with its merges takes 12 MB.
MAX_HEADER_BYTES = 64_000_000
_VERSIONS = (2, 3)
# Real files have up to a hundred values and some thousand tensors.
_MAX_VALUES, _MAX_TENSORS = 10_000, 100_000
# ggml's own: GGML_MAX_DIMS, and GGML_MAX_NAME with its NUL.
_MAX_DIMENSIONS, _MAX_NAME = 4, 63
_MAX_KEY = 1000
_ALIGNMENT, _MAX_ALIGNMENT = 32, 65_536
# Keys that mean nothing in another type, with the Python types of their values.
_KINDS = {
    "general.architecture": str,
    "general.alignment": int,
    "general.name": str,
    "tokenizer.ggml.model": str,
    "tokenizer.ggml.pre": str,
    "split.count": int,
    "split.no": int,
}
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
class TensorPlace:
    """One tensor of a file.

    Attributes:
        shape: as torch has it, rows first.
        type_: of its blocks.
        start: offset of its first byte from the start of the file.
        nbytes: its bytes there.
    """

    shape: tuple[int, ...]
    type_: StoredType
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What the header of a file says.

    Attributes:
        values: numbers, bools, short texts, lists of up to 1,000 numbers and tuples of up to 100 texts, by key;
            longer ones that were wanted.
        tensors: by llama.cpp's names of them.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, TensorPlace]

    @property
    def architecture(self) -> str:
        """Return llama.cpp's name of the kind of model."""
        return str(self.values["general.architecture"])

    @property
    def config(self) -> dict[str, Any]:
        """Return the numbers that describe the model, named as in a config where it has a name for them."""
        numbers = {}
        for key, value in self.values.items():
            name = key.partition(".")[2]
            if isinstance(value, int | float | list) and not key.startswith(("general.", "tokenizer.", "split.")):
                numbers[_CONFIG_NAMES.get(name, name)] = value
        return numbers

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors by name, as torch has them."""
        return {name: place.shape for name, place in self.tensors.items()}


def read_gguf(file: Path, *, kind: str = "model", whole: Collection[str] = ()) -> GgufHeader:
    """Read the header of a file, all of whose tensors must lie in the file; no weight is read.

    Args:
        file: the file.
        kind: what it must hold, "model" or "imatrix".
        whole: keys of texts and arrays that are wanted however long they are.

    Raises:
        CheckpointError: it cannot be read, or its counts, lengths, types and offsets are not those of its bytes.
        UnsupportedModelError: a file of llama.cpp from before GGUF, of version 1 or big-endian, or a type of tensors
            that no version of llama.cpp reads, or none that is known here; or a file of the other kind.
    """
    try:
        with file.open("rb") as stream:
            length = os.fstat(stream.fileno()).st_size
            size = min(length, MAX_HEADER_BYTES)
            # Of gigabytes, only the pages of the header are read. An empty file cannot be mapped.
            with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) if size else nullcontext(b"") as data:
                return parse_gguf(HeaderParser(file, data, whole=whole), length, kind=kind)
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror}): check its permissions") from error


def misnamed_problem(file: Path) -> str | None:
    """Return what to do with a file of llama.cpp's whose name does not end in .gguf; None for any other file.

    Those from before GGUF were mostly called ggml-model-q4_0.bin, and Ollama keeps its files by their hashes alone.
    """
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError:
        return None
    if magic == b"GGUF":
        return f"{file} is a GGUF file whose name does not end in .gguf: give it such a name, or a link to it"
    return _old_problem(file, magic)


def parse_gguf(parser: HeaderParser, size: int, *, kind: str = "model") -> GgufHeader:
    """Parse a header from its first byte.

    Args:
        parser: at the first byte.
        size: bytes of the whole file.
        kind: as for `read_gguf`.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_gguf`.
    """
    _refuse_other_files(parser)
    num_tensors, num_values = parser.take("Q"), parser.take("Q")
    if num_tensors > _MAX_TENSORS or num_values > _MAX_VALUES:
        raise parser.lying(f"its header is said to have {num_values} values and {num_tensors} tensors")
    values: dict[str, Any] = {}
    for _ in parser.times(num_values):
        key = parser.text(_MAX_KEY, "a key")
        if key in values:
            raise parser.lying(f"it has the key {key!r:.80} twice")
        values[key] = parser.value(parser.take("I"), key)
    _refuse_other_kinds(parser, values, kind)
    _check_kinds(parser, values)
    places: dict[str, tuple[tuple[int, ...], StoredType, int]] = {}
    for _ in parser.times(num_tensors):
        name = parser.text(_MAX_NAME, "the name of a tensor")
        if name in places:
            raise parser.lying(f"it has the tensor {name!r} twice")
        places[name] = _place(parser, name)
    alignment = values.get("general.alignment", _ALIGNMENT)
    start = -(-parser.position // alignment) * alignment
    tensors = {
        name: TensorPlace(shape, type_, start + offset, math.prod(shape) // type_.block_size * type_.block_bytes)
        for name, (shape, type_, offset) in places.items()
    }
    _check_layout(parser, tensors, alignment, size)
    return GgufHeader({key: value for key, value in values.items() if value is not None}, tensors)


def _refuse_other_files(parser: HeaderParser) -> None:
    """Take the magic number and the version; raises as `read_gguf`."""
    magic = parser.take("4s")
    if problem := _old_problem(parser.file, magic):
        raise UnsupportedModelError(problem)
    if magic != b"GGUF":
        if problem := lfs_problem(parser.file):
            raise CheckpointError(problem)
        raise parser.lying(f"it begins with {magic!r}, not as a GGUF file")
    version = parser.take("I")
    if version not in _VERSIONS and int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *_VERSIONS):
        raise UnsupportedModelError(
            f"{parser.file} is a big-endian GGUF file: make it anew for this machine with gguf-py's "
            "gguf_convert_endian.py, or name another file"
        )
    if version == 1:
        raise UnsupportedModelError(
            f"{parser.file} is a GGUF file of version 1, of August 2023, which llama.cpp reads no longer: name a newer "
            "one"
        )
    if version not in _VERSIONS:
        raise parser.lying(f"it is of version {version}, not {' or '.join(map(str, _VERSIONS))}")


def _old_problem(file: Path, magic: bytes) -> str | None:
    """Return what to name instead of a file from before GGUF; None if its first four bytes are of none."""
    old = OLD_MAGICS.get(magic) or OLD_MAGICS.get(magic[::-1])
    if old is None:
        return None
    return (
        f"{file} is a file of llama.cpp from before August 2023 ({old}, not GGUF), which nothing reads any more: name "
        "the full-precision model, or a .gguf file of it"
    )


def _refuse_other_kinds(parser: HeaderParser, values: Mapping[str, Any], kind: str) -> None:
    """Refuse a model where an imatrix is wanted, the other way round, and a model that does not say of what kind."""
    is_imatrix = values.get("general.type") == "imatrix"
    if kind == "imatrix" and not is_imatrix:
        raise UnsupportedModelError(
            f"{parser.file} is no imatrix, but of the type {values.get('general.type', 'model')!r:.40}: name a file "
            "that llama-imatrix made"
        )
    if kind == "model" and is_imatrix:
        raise UnsupportedModelError(
            f"{parser.file} is an imatrix, the importance of a model's inputs, and no model: name a model; its "
            "quantization into a .gguf file takes this file as imatrix"
        )
    if kind == "model" and not values.get("general.architecture"):
        raise parser.lying("it has no general.architecture")


def _check_kinds(parser: HeaderParser, values: Mapping[str, Any]) -> None:
    """Refuse values of types that their keys cannot have."""
    for key, kind in _KINDS.items():
        if key in values and type(values[key]) is not kind:
            raise parser.lying(f"{key} is no {'text' if kind is str else 'integer'}")
    for key, value in values.items():
        name = _CONFIG_NAMES.get(key.partition(".")[2]) if not key.startswith(("general.", "tokenizer.")) else None
        if name and not all(type(item) is int for item in (value if isinstance(value, list) else [value])):
            raise parser.lying(f"{key:.80} is no integer")
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise parser.lying(f"general.alignment is {alignment}, no power of two up to {_MAX_ALIGNMENT}")


def _place(parser: HeaderParser, name: str) -> tuple[tuple[int, ...], StoredType, int]:
    """Take the line on a tensor after its name: its shape as torch has it, its type, and its offset."""
    dimensions = parser.take("I")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise parser.lying(f"the tensor {name!r} has {dimensions} dimensions")
    sizes = [parser.take("Q") for _ in range(dimensions)]
    number, offset = parser.take("I"), parser.take("Q")
    if not all(sizes) or math.prod(sizes) >= 2**60:
        raise parser.lying(f"the tensor {name!r} has the sizes {sizes}")
    type_ = STORED_TYPES.get(number)
    if type_ is None:
        removed = REMOVED_TYPES.get(number)
        what = f"{removed}, which llama.cpp has no longer" if removed else f"{number}, which is not known here"
        raise UnsupportedModelError(f"{parser.file} holds {name!r} as the type {what}: name another file of the model")
    if sizes[0] % type_.block_size:
        raise parser.lying(f"the tensor {name!r} has rows of {sizes[0]}, no whole blocks of {type_.name}")
    return tuple(reversed(sizes)), type_, offset


def _check_layout(parser: HeaderParser, tensors: Mapping[str, TensorPlace], alignment: int, size: int) -> None:
    """Refuse tensors that are not aligned, overlap, or end after the file."""
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for name, place in ordered:
        if place.start % alignment:
            raise parser.lying(f"the tensor {name!r} begins at byte {place.start}, no multiple of {alignment}")
        if place.start + place.nbytes > size:
            end = place.start + place.nbytes
            raise parser.lying(f"the tensor {name!r} ends at byte {end}, and the file has {size}")
    for (name, place), (other, next_place) in pairwise(ordered):
        if place.start + place.nbytes > next_place.start:
            raise parser.lying(f"the tensors {name!r} and {other!r} overlap")
