"""Read the tensors of a `.gguf` file as a model has them: each is expanded when it is read, a few rows at a time."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints.gguf_header import TensorPlace
from qtoolkit.checkpoints.gguf_places import IN_ORDER, Order
from qtoolkit.checkpoints.gguf_types import StoredType
from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor, stamp_of
from qtoolkit.errors import CheckpointError
from qtoolkit.optional import optional

# Weights that are expanded at one time, and the bytes that each of them takes meanwhile: codes, float32, steps between.
_AT_ONCE = 2**16
_BYTES_AT_ONCE = 32


@dataclass(frozen=True)
class GgufTensor(StoredTensor):
    """A weight of a `.gguf` file, which is expanded when it is indexed; takes the place of a `StoredTensor`.

    Attributes:
        shape, dtype, nbytes: of the expanded weight.
        type_: of its blocks.
        codes: its bytes, uint8 [rows, bytes of a row].
        order: how the file's tensor differs from the weight.
    """

    type_: StoredType
    codes: StoredTensor
    order: Order = IN_ORDER

    @property
    def stored_bytes(self) -> int:
        """Return the bytes that it takes in the file."""
        return self.codes.nbytes

    @property
    def working_bytes(self) -> int:
        """Return the bytes that expanding it takes at most, beside the expanded weight."""
        return _BYTES_AT_ONCE * self._rows_at_once * self._columns

    @property
    def _columns(self) -> int:
        return self.codes.shape[1] // self.type_.block_bytes * self.type_.block_size

    @property
    def _rows_at_once(self) -> int:
        return max(1, min(self.codes.shape[0], _AT_ONCE // self._columns))

    def first_bytes(self, count: int) -> bytes:
        """Read the first `count` bytes as they are stored, or all where it has fewer."""
        return self.codes.first_bytes(count)

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Expand the whole weight, then index it.

        Raises:
            CheckpointError: as a `StoredTensor`; or a weight is NaN or infinite.
        """
        import numpy as np

        gguf = optional("gguf", f"reading {self.file}")
        kind = gguf.GGMLQuantizationType(self.type_.number)
        heads, shift = self.order.heads, self.order.shift
        weight = torch.empty(self.shape, dtype=self.dtype)
        # The rows as the file has them: of a vector, one.
        rows = weight.T if self.order.transposed else weight.reshape(self.codes.shape[0], -1)
        places = _places(len(rows), heads) if heads and len(rows) > 1 else torch.arange(len(rows))
        for first in range(0, len(rows), self._rows_at_once):
            codes = self.codes.part(first, first + self._rows_at_once)
            with np.errstate(all="ignore"):
                values = torch.from_numpy(gguf.dequantize(codes.numpy(), kind))
            values = (values - shift if shift else values).to(self.dtype)
            if not values.isfinite().all():
                what = f"{self.file} holds NaN or infinite weights ({self.type_.name} at byte {self.start})"
                raise CheckpointError(f"{what}: {sound_copy(self.file)}")
            rows[places[first : first + len(codes)]] = values
        if heads and len(self.shape) == 1:
            weight[_places(len(weight), heads)] = weight.clone()
        return weight[index]

    def stored_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of a weight, [out, ...], in the order in which the file has them."""
        return rows[_places(len(rows), self.order.heads)] if self.order.heads else rows

    def part(self, first: int, last: int) -> torch.Tensor:
        """Expand the whole weight, and return a part of it; raises as a `StoredTensor`."""
        return self[first:last]


def expanded_rows(packed: torch.Tensor, number: int) -> torch.Tensor:
    """Return what rows of blocks stand for, by the `gguf` package: float32 [rows, in].

    Args:
        packed: uint8 [rows, bytes of a row].
        number: of the type of the blocks, `enum ggml_type`.
    """
    gguf = optional("gguf", "a .gguf file")
    values = torch.from_numpy(gguf.dequantize(packed.cpu().numpy(), gguf.GGMLQuantizationType(number)))
    return values.to(packed.device)


def _places(rows: int, heads: int) -> torch.Tensor:
    """Return where each stored row of a weight goes: [0, n, 1, n + 1, ...] of each head, which has 2n."""
    halves = torch.arange(rows).reshape(heads, 2, -1)  # [rows] -> [heads, 2, n]
    return halves.swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class GgufSource:
    """A file, as it was when its header was read.

    Attributes:
        file: the file.
        stamp: of it, see `stamp_of`.
    """

    file: Path
    stamp: tuple[int, int]

    def tensor(
        self, name: str, place: TensorPlace, dtype: torch.dtype, order: Order, expert: int | None = None
    ) -> GgufTensor:
        """Return a tensor as a model has it; it is not read yet.

        Args:
            name: llama.cpp's name of it.
            place: where it lies, and how.
            dtype: the type of the expanded weight.
            order: how the file's tensor differs from the weight.
            expert: the number of one in a stack of experts [experts, out, in]; None for a whole tensor.

        Raises:
            CheckpointError: it has no such expert, or its rows do not divide into halves of heads.
        """
        shape, start, nbytes = place.shape, place.start, place.nbytes
        if expert is not None:
            if len(shape) != 3 or expert >= shape[0]:
                raise CheckpointError(f"{self.file} has {name!r} of the shape {list(shape)}, without expert {expert}")
            nbytes //= shape[0]
            start, shape = start + expert * nbytes, shape[1:]
        rows = math.prod(shape[:-1])
        heads = order.heads
        if heads and (heads < 0 or shape[0] % (2 * heads)):
            raise CheckpointError(f"{self.file} has {name!r} of {shape[0]} rows for {heads} heads: name another file")
        codes = StoredTensor(self.file, (rows, nbytes // rows), torch.uint8, start, nbytes, self.stamp)
        shape = tuple(reversed(shape)) if order.transposed else shape
        size = math.prod(shape) * dtype.itemsize
        return GgufTensor(self.file, shape, dtype, start, size, self.stamp, place.type_, codes, order)


def gguf_source(file: Path) -> GgufSource:
    """Return a file whose header is read now."""
    with file.open("rb") as stream:
        return GgufSource(file, stamp_of(stream))


def types_of(tensors: Iterable[GgufTensor]) -> str:
    """Return the types of tensors in words, the one that takes the most bytes first: "Q4_K, Q6_K and F32"."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type_.name] = sizes.get(tensor.type_.name, 0) + tensor.stored_bytes
    *others, last = sorted(sizes, key=lambda name: -sizes[name])
    return f"{', '.join(others)} and {last}" if others else last
