"""Read and write importance matrices, imatrix files: the mean squares of the inputs of a model's layers.

`llama-imatrix` writes them, and `llama-quantize --imatrix` reads them (llama.cpp, `common/imatrix-loader.cpp`): as
GGUF, with two tensors for each weight, the sums of the squares of its inputs over a text and the counts of tokens;
earlier as a `.dat` file, a list of names with sums and a count of calls, and the name of the text at the end.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qtoolkit.checkpoints.gguf_header import GgufHeader, TensorPlace, read_gguf
from qtoolkit.checkpoints.gguf_types import STORED_TYPES
from qtoolkit.checkpoints.gguf_writing import TensorEntry, Value, write_gguf
from qtoolkit.checkpoints.safetensors import StoredTensor, stamp_of
from qtoolkit.errors import CheckpointError, printable

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _CHUNK_COUNT, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
# As in headers of models: the most entries, and bytes of a name, which is that of a tensor.
_MAX_ENTRIES, _MAX_NAME, _MAX_DATASET = 100_000, 255, 4096
# Squares of inputs are far below; sums of products of larger ones are infinite in float32.
_LARGEST = 1e30
_FLOAT32 = STORED_TYPES[0]
_NEXT = "name another file, or make it anew with llama-imatrix"


@dataclass(frozen=True)
class _Entry:
    """What a file has of one weight.

    Attributes:
        sums: of squares, float32 [matrices, in], where the matrices are experts, or [all inputs] of an older file.
        counts: by which the sums of each matrix are divided; one for all of an older file.
    """

    sums: StoredTensor
    counts: tuple[float, ...]


class Imatrix(Mapping[str, Tensor]):
    """The mean squares of the inputs of each weight in a file, by llama.cpp's names: "blk.0.attn_q.weight".

    Each is read when it is asked for, float32: [in], [experts, in], or of an older file [experts * in]. Those of an
    expert that no token chose are 1, as llama.cpp takes them.

    Attributes:
        file: the file.
        datasets: the names of the texts, without folders.
        chunk_count: the number of pieces of text; 0 where the file does not say.
        chunk_size: tokens of a piece; 0 where the file does not say.
    """

    def __init__(
        self, file: Path, entries: Mapping[str, _Entry], *, datasets: Sequence[str], chunk_count: int, chunk_size: int
    ) -> None:
        self.file = file
        self.datasets = tuple(printable(name)[:_MAX_DATASET] for text in datasets if (name := _last_part(text)))
        self.chunk_count = chunk_count
        self.chunk_size = chunk_size
        self._entries = entries

    def __getitem__(self, name: str) -> Tensor:
        """Read the mean squares of one weight.

        Raises:
            CheckpointError: the file has gone or changed, or they are no mean squares: negative, NaN or beyond 1e30.
        """
        entry = self._entries[name]
        sums, counts = entry.sums[...], torch.tensor(entry.counts, dtype=torch.float32)
        means = torch.where(counts[:, None] > 0, sums.reshape(len(counts), -1) / counts[:, None], 1.0)  # [matrices, in]
        if not ((means >= 0) & (means <= _LARGEST)).all():
            raise _lying(self.file, f"{name!r} has mean squares below 0, beyond {_LARGEST:g}, or NaN")
        return means[0] if len(counts) == 1 else means

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def unseen(self, name: str) -> int:
        """Return how many experts of a weight no token chose, so that nothing is known of their inputs."""
        return sum(count <= 0 for count in self._entries[name].counts)


def read_imatrix(file: Path) -> Imatrix:
    """Read an importance matrix of either kind; the values are read when they are asked for.

    Raises:
        CheckpointError: it cannot be read, or its counts and lengths are not those of its bytes.
        UnsupportedModelError: it is a GGUF file of a model, or of another kind.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) == b"GGUF":
                return _from_gguf(file, read_gguf(file, kind="imatrix"), stamp_of(stream))
            stream.seek(0)
            return _from_dat(file, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror}): name an imatrix file") from error


def write_imatrix(
    file: Path,
    sums: Mapping[str, Tensor],
    counts: Mapping[str, Sequence[int]],
    *,
    datasets: Sequence[str],
    chunk_count: int,
    chunk_size: int,
) -> None:
    """Write an importance matrix as GGUF, as `llama-quantize --imatrix` reads it.

    Args:
        file: which must not exist.
        sums: the squares of the inputs of each weight over a text, float32 [in] or [experts, in], by llama.cpp's names.
        counts: the tokens that they are sums of, by the same names: one, or one for each expert.
        datasets: the names of the texts.
        chunk_count, chunk_size: the number of pieces of text, and the tokens of each.
    """
    values = {
        "general.type": Value("string", "imatrix"),
        _DATASETS: Value("string", tuple(datasets)),
        _CHUNK_COUNT: Value("uint32", chunk_count),
        _CHUNK_SIZE: Value("uint32", chunk_size),
    }
    make: dict[str, Callable[[], Tensor]] = {}
    entries = []
    for name in sorted(sums):
        columns, tokens = sums[name].shape[-1], tuple(counts[name])
        for suffix, shape in ((_SUMS, (len(tokens), columns)), (_COUNTS, (len(tokens), 1))):
            entries.append(TensorEntry(name + suffix, shape, _FLOAT32.number, 4 * shape[0] * shape[1]))
        make[name + _SUMS] = sums[name].float().contiguous
        make[name + _COUNTS] = lambda name=name: torch.tensor(counts[name], dtype=torch.float32)  # type: ignore[misc]
    for _ in write_gguf(file, values, entries, lambda entry: make[entry.name]().view(torch.uint8)):
        pass


def _from_gguf(file: Path, header: GgufHeader, stamp: tuple[int, int]) -> Imatrix:
    """Return what a file of the newer kind holds; raises as `read_imatrix`."""
    datasets = _stated(file, header, _DATASETS, tuple)
    chunk_count, chunk_size = (_stated(file, header, key, int) for key in (_CHUNK_COUNT, _CHUNK_SIZE))
    entries = {}
    for tensor, place in header.tensors.items():
        name = tensor.removesuffix(_SUMS)
        if name == tensor:
            if not tensor.endswith(_COUNTS) or tensor.removesuffix(_COUNTS) + _SUMS not in header.tensors:
                raise _lying(file, f"the tensor {tensor!r} belongs to no sums of squares")
            continue
        counted = header.tensors.get(name + _COUNTS)
        if counted is None or {place.type_, counted.type_} != {_FLOAT32}:
            raise _lying(file, f"{name!r} has no sums and counts in F32")
        # llama.cpp rounds them to whole numbers.
        counts = _stored(file, counted, stamp)[...].flatten().round()
        if counts.numel() > place.nbytes // 4 or (place.nbytes // 4) % counts.numel():
            raise _lying(file, f"{name!r} has {counts.numel()} counts for {place.nbytes // 4} sums")
        if not ((counts >= 0) & (counts < 2**62)).all():
            raise _lying(file, f"{name!r} has a count that is none")
        entries[name] = _Entry(_stored(file, place, stamp), tuple(counts.tolist()))
    if not entries:
        raise _lying(file, "it has no entries")
    return Imatrix(file, entries, datasets=datasets, chunk_count=chunk_count, chunk_size=chunk_size)


def _stated(file: Path, header: GgufHeader, key: str, kind: type) -> Any:
    """Return a value of the header, without which llama.cpp takes no file."""
    value = header.values.get(key)
    if type(value) is not kind or (type(value) is int and not 0 <= value < 2**31):
        raise _lying(file, f"its {key} is {value!r:.40}")
    return value


def _stored(file: Path, place: TensorPlace, stamp: tuple[int, int]) -> StoredTensor:
    """Return a tensor of a file, which is not read yet."""
    return StoredTensor(file, place.shape, torch.float32, place.start, place.nbytes, stamp)


def _from_dat(file: Path, stream: BinaryIO) -> Imatrix:
    """Return what a file of the older kind holds; raises as `read_imatrix`."""
    size, stamp = os.fstat(stream.fileno()).st_size, stamp_of(stream)
    entries: dict[str, _Entry] = {}
    count = _number(file, stream)
    if not 0 < count <= _MAX_ENTRIES:
        raise _lying(file, "it is neither a GGUF file nor a .dat file of llama-imatrix")
    for _ in range(count):
        name = _text(file, stream, _MAX_NAME)
        calls, length = _number(file, stream), _number(file, stream)
        start = stream.tell()
        if not name.isprintable() or name in entries or calls < 0 or not 0 < 4 * length <= size - start:
            raise _lying(file, f"its entry {name!r:.60} says {calls} calls and {length} values")
        sums = StoredTensor(file, (length,), torch.float32, start, 4 * length, stamp)
        # Sums of no calls are taken as they are.
        entries[name] = _Entry(sums, (max(calls, 1),))
        stream.seek(start + 4 * length)
    # What follows was added later.
    chunks = _number(file, stream) if stream.tell() < size else 0
    dataset = _text(file, stream, _MAX_DATASET) if stream.tell() < size else ""
    return Imatrix(file, entries, datasets=(dataset,), chunk_count=max(chunks, 0), chunk_size=0)


def _number(file: Path, stream: BinaryIO) -> int:
    """Take the next int32 of a `.dat` file."""
    raw = stream.read(4)
    if len(raw) < 4:
        raise _lying(file, "it ends within an entry")
    return int(struct.unpack("<i", raw)[0])


def _text(file: Path, stream: BinaryIO, most: int) -> str:
    """Take the next text of a `.dat` file, after its length."""
    length = _number(file, stream)
    if not 0 <= length <= most:
        raise _lying(file, f"a name has {length} bytes, and none has more than {most}")
    raw = stream.read(length)
    if len(raw) < length:
        raise _lying(file, "it ends within a name")
    return raw.decode(errors="replace")


def _last_part(text: str) -> str:
    """Return the name of a text without the folders of the machine that it lay on."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1].strip()


def _lying(file: Path, what: str) -> CheckpointError:
    return CheckpointError(f"cannot read {file} as an imatrix ({what}): {_NEXT}")
