"""The tensors of a compressed-tensors checkpoint that store one weight: shapes, types, conversion to codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any, ClassVar

import torch

from qtoolkit.formats.recoding import grouped_scale, grouped_zero_points, packed_words
from qtoolkit.kernels import Codes, expand, output_blocks
from qtoolkit.tensor.int32_packing import WORD_BITS, pack_words, unpack_words
from qtoolkit.tensor.lazy import LazyTensor


@dataclass(frozen=True)
class PackedTensors:
    """How compressed-tensors' "pack-quantized" stores a weight W[out_features, in_features]; a `GroupedTensors`.

    | tensor | type | shape |
    |---|---|---|
    | weight_packed | int32 | [out, ceil(in * bits / 32)]: codes, each row one string of bits, low bits first |
    | weight_scale | that of the model | [out, groups] |
    | weight_zero_point | int32 | [ceil(out * bits / 32), groups]: packed along the outputs; absent when symmetric |
    | weight_shape | int64 | [2]: out and in |

    W[o, i] = (code[o, i] - zero_point[o, g]) * scale[o, g] with g = i // group_size; when symmetric, all zero points
    are 2**(bits - 1) (compressed-tensors 0.20, compressors/pack_quantized).

    Attributes:
        out_features, in_features: of the weight.
        bits: 2 to 8.
        group_size: inputs that share a scale, which divides them; -1 for all of them.
        symmetric: whether no zero points are stored.
        scale_dtype: type of the scales.

    Example: 5 bits for 64 x 128 weights, two groups of 64 with a scale of 2 bytes, 64 * 20 words and 16 bytes of shape.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(PackedTensors(64, 128, bits=5, group_size=64))
        5392
    """

    out_features: int
    in_features: int
    bits: int
    group_size: int
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.bfloat16

    scale_name: ClassVar[str] = "weight_scale"
    packed_names: ClassVar[tuple[str, ...]] = ("weight_packed", "weight_scale")
    expands_fast: ClassVar[bool] = False

    @property
    def inputs_per_scale(self) -> int:
        """See `StoredTensors`."""
        return self.in_features if self.group_size == -1 else self.group_size

    @property
    def centered(self) -> bool:
        """See `StoredTensors`."""
        return self.symmetric

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `StoredTensors`.

        Raises:
            ValueError: unknown bits, or groups that do not divide the inputs; the message says which.
        """
        if self.bits not in WORD_BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, WORD_BITS))}, got {self.bits}")
        size = self.inputs_per_scale
        if size < 1 or self.in_features % size:
            raise ValueError(f"group_size must be -1 or divide {self.in_features} inputs, got {self.group_size}")
        groups = self.in_features // size
        zeros = (num_words(self.out_features, self.bits), groups)
        return {
            "weight_packed": ((self.out_features, num_words(self.in_features, self.bits)), torch.int32),
            "weight_scale": ((self.out_features, groups), self.scale_dtype),
            **({} if self.symmetric else {"weight_zero_point": (zeros, torch.int32)}),
            "weight_shape": ((2,), torch.int64),
        }

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """See `GroupedTensors`; the groups must be those of the inputs in order."""
        tensors = {
            "weight_packed": pack_columns(codes, self.bits).T.contiguous(),
            # [groups, out] -> [out, groups]
            "weight_scale": scale.T.to(self.scale_dtype).contiguous(),
        }
        if not self.symmetric:
            tensors["weight_zero_point"] = pack_columns(zero_point.T.to(torch.uint8), self.bits)
        tensors["weight_shape"] = torch.tensor([self.out_features, self.in_features])
        return {name: tensor.cpu() for name, tensor in tensors.items()}

    def recode(self, codes: Codes) -> dict[str, torch.Tensor]:
        """See `RecodedTensors`; the groups must be those of the inputs in order."""
        groups = self.in_features // self.inputs_per_scale
        tensors = {
            "weight_packed": packed_words(codes, pack_columns).T.contiguous(),
            # [groups, out] -> [out, groups]
            "weight_scale": grouped_scale(codes, groups).T.to(self.scale_dtype).contiguous(),
        }
        if not self.symmetric:
            tensors["weight_zero_point"] = pack_columns(grouped_zero_points(codes, groups).T.contiguous(), self.bits)
        return tensors | {"weight_shape": torch.tensor([self.out_features, self.in_features])}

    def are_sound(self, tensors: Mapping[str, Any], *, reordered: bool) -> bool:
        """See `GroupedTensors`."""
        shape = tensors["weight_shape"][...].tolist()
        return shape == [self.out_features, self.in_features] and bool(tensors["weight_scale"][...].isfinite().all())

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> "PackedRows":
        """See `StoredTensors`."""
        return PackedRows(self, tensors)

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""

        def weight_packed() -> torch.Tensor:
            return torch.cat([pack_columns(codes.codes(part), self.bits).T for part in output_blocks(codes)])

        def weight_scale() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).T.contiguous()

        tensors = self.tensors()
        makers = {"weight_packed": weight_packed, "weight_scale": weight_scale}
        return {name: LazyTensor(*tensors[name], make) for name, make in makers.items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        return f"bits={self.bits}, group_size={self.inputs_per_scale}, symmetric={self.symmetric}"


class PackedRows(Codes):
    """The codes in the tensors of a `PackedTensors`.

    Args:
        stored: how they are stored.
        tensors: weight_packed, weight_scale, and weight_zero_point where there is one.
    """

    def __init__(self, stored: PackedTensors, tensors: Mapping[str, torch.Tensor]) -> None:
        self.bits = stored.bits
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        self.inputs_per_scale = stored.inputs_per_scale
        self.centered = stored.symmetric
        self._words = tensors["weight_packed"]
        self._scale = tensors["weight_scale"]
        self.device = self._words.device
        words = tensors.get("weight_zero_point")
        self.zero_points = partial(_zero_points, words, stored.bits, stored.out_features)

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        # [outputs, words] -> [words, outputs] -> [in, outputs]
        return unpack_columns(self._words[outputs].T.contiguous(), self.bits, self.in_features)

    def words(self) -> torch.Tensor | None:
        """See `Codes`."""
        return None if self.in_features * self.bits % 32 else self._words.T

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return self._scale[outputs].T

    def rows_of(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`: only these rows are unpacked."""
        if not (self.centered and len(ids)):
            return super().rows_of(ids, dtype)
        codes = unpack_columns(self._words[ids].T.contiguous(), self.bits, self.in_features)
        return expand(codes, self._scale[ids].T, 2 ** (self.bits - 1), None, dtype).T


def num_words(count: int, bits: int) -> int:
    """Return the 32-bit words that a string of codes takes."""
    return -(-count * bits // 32)


def pack_columns(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes uint8 [n, m] along the first dimension into strings of bits: int32 [ceil(n * bits / 32), m].

    Unlike `pack_words`, the last word of a column may have unused bits, which are 0.
    """
    missing = -len(codes) % (lcm(bits, 32) // bits)
    padded = torch.nn.functional.pad(codes, (0, 0, 0, missing)) if missing else codes
    return pack_words(padded, bits)[: num_words(len(codes), bits)]


def unpack_columns(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Return the codes of `pack_columns`: int32 [ceil(count * bits / 32), m] -> uint8 [count, m]."""
    missing = -len(words) % (lcm(bits, 32) // 32)
    padded = torch.nn.functional.pad(words, (0, 0, 0, missing)) if missing else words
    return unpack_words(padded, bits)[:count]


def _zero_points(words: torch.Tensor | None, bits: int, count: int, outputs: slice) -> torch.Tensor | int:
    """Return the zero points of some of `count` outputs, uint8 [groups, outputs]; their middle without words."""
    return 2 ** (bits - 1) if words is None else unpack_columns(words, bits, count)[outputs].T
