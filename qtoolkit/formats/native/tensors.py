"""How qtoolkit's own checkpoints store integer codes: a weight, its scales, its zero points; the way there and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from qtoolkit.kernels import Codes, output_blocks, stored_bytes
from qtoolkit.tensor import code_range, pack_int4, scale_shape, unpack_int4
from qtoolkit.tensor.lazy import LazyTensor


@dataclass(frozen=True)
class NativeTensors:
    """Absmax or zero-point codes of 8 or 4 bits for a weight W[out_features, in_features].

    | tensor | type | shape |
    |---|---|---|
    | weight | int8 (8 bits), or two codes in a uint8 (4 bits) | [out, in], or [out, in / 2] |
    | scale | float32, or float16 for granularity "group" | `qtoolkit.tensor.scale_shape` |
    | zero_point | int8; absent when symmetric | as scale |

    Group scales are float16 because there are many: with groups of 64, float32 would cost 0.25 bits per weight more.

    Attributes:
        out_features, in_features: of the weight.
        bits: 8 or 4.
        granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
        group_size: weights per scale; -1 unless granularity is "group".
        symmetric: absmax codes if true, zero-point codes otherwise.
    """

    out_features: int
    in_features: int
    bits: int
    granularity: str
    group_size: int
    symmetric: bool

    scale_name: ClassVar[str] = "scale"
    packed_names: ClassVar[tuple[str, ...]] = ("weight", "scale")
    expands_fast: ClassVar[bool] = True

    @property
    def inputs_per_scale(self) -> int:
        """See `StoredTensors`."""
        return self.group_size if self.granularity == "group" else self.in_features

    @property
    def centered(self) -> bool:
        """See `StoredTensors`."""
        return self.symmetric

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `StoredTensors`.

        Raises:
            ValueError: bits or a granularity that there is not, a group size that does not divide in_features, or an
                odd in_features with 4 bits; the message says which.
        """
        code_range(self.bits, self.symmetric)
        if self.bits == 4 and self.in_features % 2:
            raise ValueError(f"in_features must be even for 4 bits, two codes in a byte, got {self.in_features}")
        scales = scale_shape(self.out_features, self.in_features, self.granularity, self.group_size)
        columns = self.in_features * self.bits // 8
        tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "weight": ((self.out_features, columns), torch.int8 if self.bits == 8 else torch.uint8),
            "scale": (scales, torch.float16 if self.granularity == "group" else torch.float32),
        }
        return tensors if self.symmetric else tensors | {"zero_point": (scales, torch.int8)}

    def stored_bytes(self) -> int:
        """Bytes of `tensors`: codes, scales and zero points.

        Example: 64 x 128 codes of 4 bits, and a float16 scale for each 32 of them, 4096 + 512 bytes.

            >>> NativeTensors(64, 128, bits=4, granularity="group", group_size=32, symmetric=True).stored_bytes()
            4608
        """
        return stored_bytes(self)

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors that hold these codes.

        Args:
            codes: int8 [out_features, in_features].
            scale: of any shape with as many numbers as `tensors` tells, row by row; it must be of that type.
            zero_point: int8, as many; None when symmetric.

        Raises:
            ValueError: other shapes or types, or what `tensors` refuses.
        """
        wanted = self.tensors()
        expected = [self.out_features, self.in_features]
        if list(codes.shape) != expected:
            raise ValueError(f"weight must have shape {expected}, got {list(codes.shape)}")
        stored = {"weight": pack_int4(codes) if self.bits == 4 else codes, "scale": scale.view(wanted["scale"][0])}
        if zero_point is not None:
            stored["zero_point"] = zero_point.view(wanted["zero_point"][0])
        types = {name: tensor.dtype for name, tensor in stored.items()}
        if types != {name: dtype for name, (_, dtype) in wanted.items()}:
            raise ValueError(f"types must be {wanted}, got {types}")
        return stored

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        """See `StoredTensors`."""
        return CodeRows(tensors["weight"], tensors["scale"], tensors.get("zero_point"))

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""
        tensors = self.tensors()

        def weight() -> torch.Tensor:
            # uint8 [in, outputs] -> int8 [outputs, in]
            rows = (_signed(codes.codes(part).T, self.bits) for part in output_blocks(codes))
            return torch.cat([pack_int4(part) if self.bits == 4 else part for part in rows])

        def scale() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).T.contiguous()

        return {
            "weight": LazyTensor(*tensors["weight"], weight),
            "scale": LazyTensor(*tensors["scale"], scale),
        }

    def __str__(self) -> str:
        """What `print(model)` shows of it."""
        group = f", group_size={self.group_size}" if self.granularity == "group" else ""
        return f"bits={self.bits}, granularity={self.granularity!r}{group}, symmetric={self.symmetric}"


class CodeRows(Codes):
    """The tensors of `NativeTensors`, which lie in memory as they are expanded.

    Where one scale serves a whole output, a block holds the codes themselves, which every type represents exactly
    (integers up to 254), and the outputs are scaled.

    Args:
        weight: int8 [out, in], or packed uint8 [out, in / 2].
        scale: [1, 1], [out, 1] or [out, in / group_size].
        zero_point: int8 of the same shape; None when symmetric.
    """

    expands_fast = True

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> None:
        self.bits = 4 if weight.dtype == torch.uint8 else 8
        self.out_features, self.in_features = len(weight), weight.shape[1] * 8 // self.bits
        self.inputs_per_scale, self.device = self.in_features // scale.shape[1], weight.device
        self._weight, self._scale, self._zero_point = weight, scale, zero_point
        self.centered = zero_point is None
        self.rows = weight if self.bits == 8 and self.centered else None
        self.zero_points = partial(_zero_points, zero_point, 2 ** (self.bits - 1))

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        # int8 [outputs, in] -> uint8 [in, outputs]
        codes: torch.Tensor = self._signed(outputs).to(torch.int16) + 2 ** (self.bits - 1)
        return codes.to(torch.uint8).T.contiguous()

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        return _of(self._scale, outputs).T

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`."""
        levels = self._levels(outputs, dtype)
        block = torch.empty(levels.shape, dtype=dtype, device=self.device)
        # The product is taken in float32 and rounded once.
        torch.mul(levels, _of(self._scale, outputs)[..., None].float(), out=block)
        # [outputs, groups, group_size] -> [in, outputs]
        return block.flatten(1).T

    def factor(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor | None:
        """See `Codes`. Not in float16: a sum of products with whole codes could exceed its largest number, 65504."""
        return None if self._scale.shape[1] > 1 or dtype == torch.float16 else _of(self._scale, outputs)[:, 0]

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`."""
        if self.factor(outputs, dtype) is None:
            return self.expanded(outputs, dtype)
        # [outputs, groups, group_size] -> [in, outputs]
        return self._levels(outputs, dtype).to(dtype).flatten(1).T

    def _signed(self, outputs: slice) -> torch.Tensor:
        """Rows of codes, int8 [outputs, in]."""
        rows = self._weight[outputs]
        return unpack_int4(rows) if self.bits == 4 else rows

    def _levels(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """Codes less their zero points, [outputs, groups, group_size], of some type that holds them exactly."""
        codes = self._signed(outputs)
        # [outputs, in] -> [outputs, groups, group_size]
        levels = codes.view(len(codes), self._scale.shape[1], -1)
        if self._zero_point is None:
            return levels
        # Exact: codes and zero points differ by 254 at most.
        return levels.to(dtype).sub_(_of(self._zero_point, outputs)[..., None].to(dtype))


def _zero_points(zero_point: torch.Tensor | None, middle: int, outputs: slice) -> torch.Tensor | int:
    """Zero points of unsigned codes, as `Codes` wants them, of those int8 [out or 1, groups] of signed ones."""
    return middle if zero_point is None else (_of(zero_point, outputs).to(torch.int16) + middle).to(torch.uint8).T


def _of(values: torch.Tensor, outputs: slice) -> torch.Tensor:
    """Return the rows of some outputs; the one row that serves all, where there is one."""
    return values if len(values) == 1 else values[outputs]


def _signed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes uint8 less half their range, int8."""
    signed: torch.Tensor = codes.to(torch.int16) - 2 ** (bits - 1)
    return signed.to(torch.int8)
