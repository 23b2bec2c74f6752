"""Read the tensors of a `.gguf` file as a model has them: each is expanded when it is read, a few rows at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qtoolkit.checkpoints.gguf_header import TensorPlace
from qtoolkit.checkpoints.gguf_types import StoredType
from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor, stamp_of
from qtoolkit.errors import CheckpointError
from qtoolkit.optional import optional

# Weights that are expanded at one time, and the bytes that each of them takes meanwhile: codes, float32, steps between.
_AT_ONCE = 2**16
_BYTES_AT_ONCE = 32


@dataclass(frozen=True)
class Layout:
    """How llama.cpp stores the tensors of a kind of model otherwise than transformers has them.

    Attributes:
        interleaved: whether the rows of queries and keys are stored in pairs, (0, half), (1, half + 1) of each head.
        norm_shift: what was added to the weights of norms.
        transposed: the names of matrices that a model has as [in, out].
    """

    interleaved: bool = False
    norm_shift: int = 0
    transposed: tuple[str, ...] = ()


_GPT2_MATRICES = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
# By llama.cpp's name of the architecture: those whose tensors are one each in a model too. As transformers undoes it,
# `TENSOR_PROCESSORS` of its `modeling_gguf_pytorch_utils`.
LAYOUTS = {
    "llama": Layout(interleaved=True),
    "qwen2": Layout(),
    "qwen3": Layout(),
    "phi3": Layout(),
    "starcoder2": Layout(),
    "gemma2": Layout(norm_shift=1),
    "gemma3": Layout(norm_shift=1),
    "gpt2": Layout(transposed=_GPT2_MATRICES),
}


@dataclass(frozen=True)
class GgufTensor(StoredTensor):
    """A weight of a `.gguf` file, which is expanded when it is indexed; takes the place of a `StoredTensor`.

    Attributes:
        shape, dtype, nbytes: of the expanded weight.
        type_: of its blocks.
        codes: its bytes, uint8 [rows, bytes of a row].
        heads: into how many heads the rows divide whose halves are interleaved; 0 for rows that are in order.
        shift: what was added to each value.
        transposed: whether the file's rows are the weight's columns.
    """

    type_: StoredType
    codes: StoredTensor
    heads: int = 0
    shift: int = 0
    transposed: bool = False

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
        weight = torch.empty(self.shape, dtype=self.dtype)
        # The rows as the file has them: of a vector, one.
        rows = weight.T if self.transposed else weight.reshape(self.codes.shape[0], -1)
        order = _order(len(rows), self.heads) if self.heads and len(rows) > 1 else torch.arange(len(rows))
        for first in range(0, len(rows), self._rows_at_once):
            codes = self.codes.part(first, first + self._rows_at_once)
            with np.errstate(all="ignore"):
                values = torch.from_numpy(gguf.dequantize(codes.numpy(), kind))
            if not values.isfinite().all():
                what = f"{self.file} holds NaN or infinite weights ({self.type_.name} at byte {self.start})"
                raise CheckpointError(f"{what}: {sound_copy(self.file)}")
            rows[order[first : first + len(codes)]] = (values - self.shift if self.shift else values).to(self.dtype)
        if self.heads and len(self.shape) == 1:
            weight[_order(len(weight), self.heads)] = weight.clone()
        return weight[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Expand the whole weight, and return a part of it; raises as a `StoredTensor`."""
        return self[first:last]


def _order(rows: int, heads: int) -> torch.Tensor:
    """Return where each stored row of a weight goes: [0, n, 1, n + 1, ...] of each head, which has 2n."""
    halves = torch.arange(rows).reshape(heads, 2, -1)  # [rows] -> [heads, 2, n]
    return halves.swapaxes(1, 2).reshape(-1)


def gguf_tensor(
    file: Path, name: str, place: TensorPlace, dtype: torch.dtype, layout: Layout, heads: tuple[int, int]
) -> GgufTensor:
    """Return a tensor of a file as a model has it; it is not read yet.

    Args:
        file: the file.
        name: llama.cpp's name of it.
        place: where it lies, and how.
        dtype: the type of the expanded weight.
        layout: of the kind of model.
        heads: of queries, and of keys.

    Raises:
        CheckpointError: its rows do not divide into halves of heads.
    """
    rows = place.shape[0] if len(place.shape) > 1 else 1
    with file.open("rb") as stream:
        stamp = stamp_of(stream)
    codes = StoredTensor(file, (rows, place.nbytes // rows), torch.uint8, place.start, place.nbytes, stamp)
    transposed = name.endswith(layout.transposed) if layout.transposed else False
    shape = tuple(reversed(place.shape)) if transposed else place.shape
    own_heads = 0
    if layout.interleaved:
        own_heads = heads[0] if ".attn_q." in name else heads[1] if ".attn_k." in name else 0
        if own_heads and (own_heads < 0 or shape[0] % (2 * own_heads)):
            raise CheckpointError(f"{file} has {name!r} of {shape[0]} rows for {own_heads} heads: name another file")
    return GgufTensor(
        file,
        shape,
        dtype,
        place.start,
        torch.Size(shape).numel() * dtype.itemsize,
        stamp,
        place.type_,
        codes,
        own_heads,
        shift=layout.norm_shift if name.endswith("norm.weight") else 0,
        transposed=transposed,
    )


def types_of(tensors: Iterable[GgufTensor]) -> str:
    """Return the types of tensors in words, the one that takes the most bytes first: "Q4_K, Q6_K and F32"."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type_.name] = sizes.get(tensor.type_.name, 0) + tensor.stored_bytes
    *others, last = sorted(sizes, key=lambda name: -sizes[name])
    return f"{', '.join(others)} and {last}" if others else last
