"""Read safetensors files: headers are checked before use, tensors are read one at a time.

Files are read, not mapped into memory: mapped pages count as resident memory until they are dropped, so the peak would
grow with the size of the whole model.
Format: https://github.com/huggingface/safetensors#format (8 bytes length, JSON header, tensor data).
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from qtoolkit.checkpoints.remedy import lfs_problem, sound_copy
from qtoolkit.errors import CheckpointError, oneline

# Type names of the format -> torch types, for the types that causal language models are stored in.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}
# The reference reader's own limit, far above any real header; without one, a false length could fill the memory.
MAX_HEADER_BYTES = 100_000_000
# The most that torch operations take.
MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, read when it is indexed.

    transformers' loader takes such objects in place of tensors: it asks for shape and type, and reads with
    `tensor[...]`.

    Attributes:
        file: the file.
        shape: its shape.
        dtype: its torch type.
        start: offset of its first byte from the start of the file.
        nbytes: its length.
        stamp: size and modification time of the file when its header was read; a file that changed has others.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    nbytes: int
    stamp: tuple[int, int]

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that it takes in the file: fewer than `nbytes` of a weight that is expanded."""
        return self.nbytes

    @property
    def working_bytes(self) -> int:
        """Return the bytes that reading it takes at most, beside the tensor itself."""
        return 0

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the whole tensor, then index it.

        Raises:
            CheckpointError: the file has gone, become shorter, or was replaced or written since its header was read.
        """
        return self._read(self.shape, 0)[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Read a part of a tensor of one dimension or more: its entries from `first` up to `last`, without that.

        Raises:
            CheckpointError: as by index.
        """
        count, *others = self.shape
        first, last = min(first, count), min(last, count)
        return self._read((last - first, *others), first * math.prod(others) * self.dtype.itemsize)

    def _read(self, shape: tuple[int, ...], offset: int) -> torch.Tensor:
        """Read a tensor of this shape that begins `offset` bytes after the first one; raises as by index."""
        tensor = torch.empty(shape, dtype=self.dtype)
        if tensor.nbytes:
            view = tensor.reshape(-1).view(torch.uint8).numpy().data  # [bytes]
            try:
                with self.file.open("rb", buffering=0) as file:
                    file.seek(self.start + offset)
                    while view:
                        count = file.readinto(view)
                        if not count:
                            raise CheckpointError(f"{self.file} ended within a tensor: {sound_copy(self.file)}")
                        view = view[count:]
                    # Compared after reading, so that a change while reading is found too.
                    changed = stamp_of(file) != self.stamp
            except OSError as error:
                raise _unreadable(self.file, error) from error
            if changed:
                raise CheckpointError(
                    f"{self.file} was replaced or written while it was in use, so that its tensors may be of two "
                    "models: leave it alone, and call that again"
                )
        return tensor

    def first_bytes(self, count: int) -> bytes:
        """Read its first `count` bytes, or all where it has fewer."""
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start)
                return file.read(min(count, self.nbytes)) or b""
        except OSError as error:
            raise _unreadable(self.file, error) from error


class ReportedTensor:
    """A tensor that is read once: it reports that, and is then dropped.

    Args:
        tensor: a `StoredTensor` or a tensor in memory.
        on_read: called with the tensor after it was read, in whichever thread reads it.
    """

    def __init__(self, tensor: StoredTensor | torch.Tensor, on_read: Callable[[torch.Tensor], None]) -> None:
        self._tensor: StoredTensor | torch.Tensor | None = tensor
        self._on_read = on_read

    def get_dtype(self) -> str:
        """Return the type's name in the format; transformers casts "F..." and "BF..." to the model's type."""
        assert self._tensor is not None
        return next(name for name, dtype in DTYPES.items() if dtype == self._tensor.dtype)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the tensor, report it and drop it."""
        assert self._tensor is not None, "a loader reads each tensor once"
        tensor = self._tensor[index]
        self._tensor = None
        self._on_read(tensor)
        return tensor


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name; no weight is read.

    All that the reference reader refuses is refused. Beside that: a name that occurs twice (it takes the last), unknown
    keys, more than 64 dimensions, sizes whose product no memory holds, and types that are not in `DTYPES`.

    Raises:
        CheckpointError: the header is not valid, or the file is not as long as the header says. All that a reader
            relies on is checked: lengths, JSON, types, shapes, and that tensors cover the data without hole or overlap.
    """
    try:
        header, data_start, stamp = _read_header(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _are_texts(metadata):
        raise _lying(file, "its __metadata__ is not texts by name")
    tensors = {name: _tensor(file, name, entry, data_start, stamp) for name, entry in header.items()}
    _check_layout(file, tensors, data_start, stamp[0])
    return tensors


def stamp_of(stream: IO[bytes]) -> tuple[int, int]:
    """Return the size and the modification time of an open file."""
    state = os.fstat(stream.fileno())
    return state.st_size, state.st_mtime_ns


def _read_header(file: Path) -> tuple[dict[str, Any], int, tuple[int, int]]:
    """Return the header's JSON values, the offset at which the data starts, and the file's stamp."""
    with file.open("rb") as stream:
        stamp = stamp_of(stream)
        size = stamp[0]
        prefix = stream.read(8)
        if len(prefix) < 8:
            problem = f"has {size} bytes, too few for a header" if size else "is empty"
            raise CheckpointError(f"{file} {problem}: {sound_copy(file)}")
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            if problem := lfs_problem(file):
                raise CheckpointError(problem)
            raise _lying(file, f"its header is said to take {length} bytes of a file of {size}")
        text = stream.read(length)
    try:
        # Python's reader alone would also take UTF-16, NaN, -0, lone surrogates and a key given twice.
        header = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_natural, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _lying(file, f"its header is not valid ({_short(oneline(error))})") from error
    if not isinstance(header, dict):
        raise _lying(file, "its header is not a JSON object")
    return header, 8 + length, stamp


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of a JSON object; raises ValueError for a name that occurs twice, and for lone surrogates."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice")
    for text in (*values, *values.values()):
        if isinstance(text, str):
            text.encode()  # refuses lone surrogates
    return values


def _natural(digits: str) -> int:
    """Parse a number of a header; raises ValueError for a negative one, and for one that is longer than any size."""
    if not digits.isdecimal() or len(digits) > 19:
        raise ValueError(f"{digits:.20} is no size")
    return int(digits)


def _refuse(constant: str) -> None:
    """Raise ValueError for NaN or Infinity, which Python's JSON reader takes for numbers."""
    raise ValueError(f"{constant} is no size")


def _tensor(file: Path, name: str, entry: Any, data_start: int, stamp: tuple[int, int]) -> StoredTensor:
    """Check one entry of the header, and return its tensor."""
    shown = _short(repr(name))
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _lying(file, f"the entry of {shown} has not the keys dtype, shape and data_offsets")
    dtype = entry["dtype"]
    shape = entry["shape"]
    offsets = entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _lying(file, f"{shown} has the type {_short(repr(dtype))}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise _lying(file, f"{shown} has no sound shape or offsets")
    start, end = offsets
    # torch multiplies the sizes to strides, also beside a 0.
    if math.prod(size or 1 for size in shape) * DTYPES[dtype].itemsize >= 2**63:
        raise _lying(file, f"{shown} has a shape that no memory holds")
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - start != num_bytes:
        raise _lying(file, f"{shown} needs {num_bytes} bytes for {dtype}{_short(str(shape))} and has {end - start}")
    return StoredTensor(file, tuple(shape), DTYPES[dtype], data_start + start, num_bytes, stamp)


def _are_texts(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(value, str) for value in values.values())


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value < 2**63 for value in values)


def _check_layout(file: Path, tensors: Mapping[str, StoredTensor], data_start: int, size: int) -> None:
    """Refuse holes, overlaps and surplus bytes, as the reference reader does: the tensors must cover the data."""
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != position:
            raise _lying(file, f"{_short(repr(name))} starts at byte {tensor.start} instead of {position}")
        position += tensor.nbytes
    if position != size:
        raise _lying(file, f"its tensors end at byte {position} of a file of {size}")


def _short(text: str) -> str:
    """Return at most 80 characters of a text from a file, which may be very long."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lying(file: Path, what: str) -> CheckpointError:
    """Return the error of a file whose header cannot be true."""
    return CheckpointError(f"{file} is damaged: {what}; {sound_copy(file)}")


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    """Return the error of a file that the system does not let us read."""
    return CheckpointError(f"{file} cannot be read ({error.strerror}): check its permissions, or {sound_copy(file)}")
