"""Safetensors files: headers checked before use, tensors read one at a time.

Reads with plain file reads rather than a memory map: mapped pages count as resident memory until they are dropped, so a
mapped checkpoint would make the peak follow the size of the whole model.
Format: https://github.com/huggingface/safetensors#format (8 bytes length, JSON header, tensor data).
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qtoolkit.errors import CheckpointError

# Type names of the format -> torch types; the ones that causal language models are stored in.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# The reference reader's own limit: no real header comes near it, and a lying length cannot fill the memory.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, read when it is indexed.

    transformers' loader takes objects like this in place of tensors: it asks for the shape and type, and reads with
    `tensor[...]`.

    Attributes:
        file: where it lies.
        shape: its shape.
        dtype: its torch type.
        start: offset of its first byte from the start of the file.
        nbytes: its length.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    nbytes: int

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the whole tensor, then index it.

        Raises:
            CheckpointError: the file has become shorter since its header was read.
        """
        tensor = torch.empty(self.shape, dtype=self.dtype)
        if self.nbytes:
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.start)
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise CheckpointError(f"{self.file} ended while a tensor was read: copy or download it again")
                    view = view[count:]
        return tensor[index]


class ReportedTensor:
    """A stored or held tensor that tells when it was read, and is let go of then.

    Args:
        tensor: a `StoredTensor` or a tensor in memory.
        on_read: called with the tensor's bytes after it was read.
    """

    def __init__(self, tensor: StoredTensor | torch.Tensor, on_read: Callable[[int], None]) -> None:
        self._tensor: StoredTensor | torch.Tensor | None = tensor
        self._on_read = on_read

    def get_dtype(self) -> str:
        """The type's name in the format: transformers casts only floats, "F..." and "BF...", to the model's type."""
        assert self._tensor is not None
        return next(name for name, dtype in DTYPES.items() if dtype == self._tensor.dtype)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read it, the one time that it can be read."""
        assert self._tensor is not None, "a loader reads each tensor once"
        tensor = self._tensor[index]
        self._tensor = None
        self._on_read(tensor.nbytes)
        return tensor


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; no weight is read.

    Raises:
        CheckpointError: the header is not valid, or the file is not as long as the header says. Everything that a
            reader relies on is checked: lengths, JSON, types, shapes, and that the tensors cover the data exactly, without
            holes or overlaps.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _lying(file, f"its header is said to take {length} bytes of a file of {size}")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise _lying(file, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _lying(file, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(file, tensors, 8 + length, size)
    return tensors


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """One entry of the header, checked on its own."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _lying(file, f"the entry of {name!r} has not the keys dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _lying(file, f"{name!r} has the type {dtype!r}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _lying(file, f"{name!r} has no sound shape or offsets")
    start, end = offsets
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if end - start != num_bytes:
        raise _lying(file, f"{name!r} needs {num_bytes} bytes for {dtype}{shape} and has {end - start}")
    return StoredTensor(file, tuple(shape), DTYPES[dtype], data_start + start, num_bytes)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_layout(file: Path, tensors: Mapping[str, StoredTensor], data_start: int, size: int) -> None:
    """The tensors must cover the data exactly: the reference reader refuses holes, overlaps and surplus bytes too."""
    position = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != position:
            raise _lying(file, f"{name!r} starts at byte {tensor.start} instead of {position}")
        position += tensor.nbytes
    if position != size:
        raise _lying(file, f"its tensors end at byte {position} of a file of {size}")


def _lying(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged: {what}; copy or download it again")
