"""How qtoolkit's own checkpoints store integer codes: shapes, types, and conversion to codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from qtoolkit.formats.recoding import grouped_scale, grouped_zero_points
from qtoolkit.kernels import Codes, QuantizedLinear, output_blocks
from qtoolkit.tensor.grouping import scale_shape
from qtoolkit.tensor.int4_packing import pack_int4, unpack_int4
from qtoolkit.tensor.integer_codes import code_range
from qtoolkit.tensor.lazy import LazyState, LazyTensor


@dataclass(frozen=True)
class NativeTensors:
    """How absmax or zero-point codes of a weight W[out_features, in_features] are stored; implements `StoredTensors`.

    | tensor | type | shape |
    |---|---|---|
    | weight | int8 (8 bits), or two codes in a uint8 (4 bits) | [out, in], or [out, in / 2] |
    | scale | float32, or float16 for granularity "group" | `qtoolkit.tensor.grouping.scale_shape` |
    | zero_point | int8; absent when symmetric | as scale |

    Group scales are float16 because there are many: with groups of 64, float32 would cost 0.25 bits per weight more.

    Attributes:
        out_features, in_features: of the weight.
        bits: 8 or 4.
        granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
        group_size: weights per scale; -1 unless granularity is "group".
        symmetric: absmax codes if true, zero-point codes otherwise.

    Example: 64 x 128 codes of 4 bits, and a float16 scale for each 32 of them, 4096 + 512 bytes.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(NativeTensors(64, 128, bits=4, granularity="group", group_size=32, symmetric=True))
        4608
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
            ValueError: unknown bits or granularity, a group size that does not divide in_features, or an odd
                in_features with 4 bits; the message says which.
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

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tensors that store these codes.

        Args:
            codes: int8 [out_features, in_features].
            scale: as many numbers as `tensors` says, row by row, in any shape; it must have that type.
            zero_point: int8, as many as scales; None when symmetric.

        Raises:
            ValueError: other shapes or types, or anything that `tensors` refuses.
        """
        expected = self.tensors()
        shape = [self.out_features, self.in_features]
        if list(codes.shape) != shape:
            raise ValueError(f"weight must have shape {shape}, got {list(codes.shape)}")
        stored = {"weight": pack_int4(codes) if self.bits == 4 else codes, "scale": scale.view(expected["scale"][0])}
        if zero_point is not None:
            stored["zero_point"] = zero_point.view(expected["zero_point"][0])
        types = {name: tensor.dtype for name, tensor in stored.items()}
        if types != {name: dtype for name, (_, dtype) in expected.items()}:
            raise ValueError(f"types must be {expected}, got {types}")
        return stored

    def recode(self, codes: Codes) -> dict[str, torch.Tensor]:
        """See `RecodedTensors`.

        Raises:
            ValueError: one scale for a tensor, and outputs that have different ones.
        """
        shape, dtype = self.tensors()["scale"]
        scale = grouped_scale(codes, shape[1]).T.to(dtype).contiguous()
        if shape[0] == 1:
            if not (scale == scale[0]).all():
                raise ValueError("its outputs have different scales, and granularity tensor has one for all")
            scale = scale.reshape(-1)[:1].reshape(1, 1)
        rows = [_signed(codes.codes(part).T, self.bits) for part in output_blocks(codes)]
        tensors = {"weight": torch.cat([pack_int4(part) if self.bits == 4 else part for part in rows]), "scale": scale}
        if self.symmetric:
            return tensors
        zeros = grouped_zero_points(codes, shape[1]).T[: shape[0]]
        return tensors | {"zero_point": _signed(zeros, self.bits).contiguous()}

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        """See `StoredTensors`."""
        return CodeRows(tensors["weight"], tensors["scale"], tensors.get("zero_point"))

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`."""

        def weight() -> torch.Tensor:
            # uint8 [in, outputs] -> int8 [outputs, in]
            rows = (_signed(codes.codes(part).T, self.bits) for part in output_blocks(codes))
            return torch.cat([pack_int4(part) if self.bits == 4 else part for part in rows])

        def scale() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).T.contiguous()

        tensors = self.tensors()
        makers = {"weight": weight, "scale": scale}
        return {name: LazyTensor(*tensors[name], make) for name, make in makers.items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        group = f", group_size={self.group_size}" if self.granularity == "group" else ""
        return f"bits={self.bits}, granularity={self.granularity!r}{group}, symmetric={self.symmetric}"


class CodeRows(Codes):
    """The codes in the tensors of a `NativeTensors`, stored row by row, so that they are dequantized fast.

    Where each output has one scale, the inputs are multiplied with the codes themselves, which every type represents
    exactly (integers up to 254), and the products are scaled.

    Args:
        weight: int8 [out, in], or packed uint8 [out, in / 2].
        scale: [1, 1], [out, 1] or [out, in / group_size].
        zero_point: int8 of the same shape; None when symmetric.
    """

    expands_fast = True

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None) -> None:
        self.bits = 4 if weight.dtype == torch.uint8 else 8
        self.out_features = len(weight)
        self.in_features = weight.shape[1] * 8 // self.bits
        self.inputs_per_scale = self.in_features // scale.shape[1]
        self.device = weight.device
        self._weight = weight
        self._scale = scale
        self._zero_point = zero_point
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
        return _rows(self._scale, outputs).T

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`."""
        levels = self._levels(outputs, dtype)
        block = torch.empty(levels.shape, dtype=dtype, device=self.device)
        # The product is taken in float32 and rounded once.
        torch.mul(levels, _rows(self._scale, outputs)[..., None].float(), out=block)
        # [outputs, groups, group_size] -> [in, outputs]
        return block.flatten(1).T

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Codes`. Scaled in float16, where sums of products with codes could exceed the maximum, 65504."""
        if self._scale.shape[1] > 1 or dtype == torch.float16:
            return self.expanded(outputs, dtype), None
        # [outputs, groups, group_size] -> [in, outputs]
        codes = self._levels(outputs, dtype).to(dtype).flatten(1).T
        return codes, _rows(self._scale, outputs)[:, 0]

    def _signed(self, outputs: slice) -> torch.Tensor:
        """Return the codes of some outputs, int8 [outputs, in]."""
        rows = self._weight[outputs]
        return unpack_int4(rows) if self.bits == 4 else rows

    def _levels(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """Return codes minus zero points, exact in int8 or `dtype`, [outputs, groups, group_size]."""
        codes = self._signed(outputs)
        # [outputs, in] -> [outputs, groups, group_size]
        levels = codes.view(len(codes), self._scale.shape[1], -1)
        if self._zero_point is None:
            return levels
        # Exact: codes and zero points differ by 254 at most.
        return levels.to(dtype).sub_(_rows(self._zero_point, outputs)[..., None].to(dtype))


def coarse_groups(model: torch.nn.Module) -> tuple[str, ...]:
    """Return a note on groups of so small weights that float16 holds their scale with fewer bits; none without such."""
    smallest = torch.finfo(torch.float16).tiny
    found = {}
    for name, layer in model.named_modules():
        if not (isinstance(layer, QuantizedLinear) and isinstance(layer.stored, NativeTensors)):
            continue
        if layer.stored.tensors()["scale"][1] == torch.float16:
            scale = layer.state_dict(destination=LazyState())["scale"][...]
            found[name] = int((scale.abs() < smallest).sum())
    names = [name for name, count in found.items() if count]
    if not names:
        return ()
    layers = f"1 layer ({names[0]})" if len(names) == 1 else f"{len(names)} layers ({names[0]} and others)"
    note = (
        f"{sum(found.values())} groups of {layers} have weights so small that their scale is none of float16's normal "
        "numbers: these weights are coarser; format='compressed-tensors' keeps scales in the model's type"
    )
    return (note,)


def _zero_points(zero_point: torch.Tensor | None, middle: int, outputs: slice) -> torch.Tensor | int:
    """Return the zero points of unsigned codes for `Codes`, from those int8 [out or 1, groups] of signed codes."""
    return middle if zero_point is None else (_rows(zero_point, outputs).to(torch.int16) + middle).to(torch.uint8).T


def _rows(values: torch.Tensor, outputs: slice) -> torch.Tensor:
    """Return the rows of some outputs, or the only row where all outputs share one."""
    return values if len(values) == 1 else values[outputs]


def _signed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Return codes uint8 minus half their range, int8."""
    signed: torch.Tensor = codes.to(torch.int16) - 2 ** (bits - 1)
    return signed.to(torch.int8)
