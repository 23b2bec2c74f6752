"""The tensors of a compressed-tensors checkpoint whose codes take a byte each: int8, or float8 e4m3fn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from qtoolkit.kernels import Codes, output_blocks
from qtoolkit.tensor.float8 import CODES, float8_values, has_nan, scale_shape
from qtoolkit.tensor.lazy import LazyTensor
from qtoolkit.tensor.rounded_inputs import inputs_rounding

# The type of the codes, by the `type` of the scheme.
CODE_TYPES = {"int": torch.int8, "float": CODES}


@dataclass(frozen=True)
class ByteTensors:
    """How "int-quantized" and "float-quantized" store a weight W[out_features, in_features]; a `GroupedTensors`.

    | tensor | type | shape |
    |---|---|---|
    | weight | int8 or float8_e4m3fn | [out, in] |
    | weight_scale | that of the model | [out, 1], or one for each block: [ceil(out / rows), ceil(in / columns)] |

    W[o, i] = weight[o, i] * scale of output or block (compressed-tensors 0.20, compressors/naive_quantized). Programs
    that multiply in 8 bits round the inputs too, while they run, and so does a layer with these tensors: to the same
    kind, with a scale for each token, or for those of its inputs that are in one block.

    Attributes:
        out_features, in_features: of the weight.
        kind: "int" or "float".
        block: outputs and inputs that share a scale; None for one scale an output.
        scale_dtype: type of the scales.

    Example: a byte for each of 256 x 128 weights, and two scales of 2 bytes.

        >>> from qtoolkit.kernels import stored_bytes
        >>> stored_bytes(ByteTensors(256, 128, kind="float", block=(128, 128)))
        32772
    """

    out_features: int
    in_features: int
    kind: str
    block: tuple[int, int] | None = None
    scale_dtype: torch.dtype = torch.bfloat16

    bits: ClassVar[int] = 8
    scale_name: ClassVar[str] = "weight_scale"
    packed_names: ClassVar[tuple[str, ...]] = ("weight", "weight_scale")
    expands_fast: ClassVar[bool] = True

    @property
    def inputs_per_scale(self) -> int:
        """See `StoredTensors`."""
        return self.in_features if self.block is None else self.block[1]

    @property
    def centered(self) -> bool:
        """See `StoredTensors`: float8 has no zero points at all."""
        return self.kind == "int"

    @property
    def holds_floats(self) -> bool:
        """See `Codes`."""
        return self.kind == "float"

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `StoredTensors`."""
        shape = (self.out_features, self.in_features)
        return {
            "weight": (shape, CODE_TYPES[self.kind]),
            "weight_scale": (scale_shape(*shape, self.block), self.scale_dtype),
        }

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """See `GroupedTensors`: for integers with zero points in the middle, and one scale an output."""
        return self.store_rows((codes.to(torch.int16) - 128).to(torch.int8).T, scale.T)

    def store_rows(self, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors that store codes [out, in], and scales of the shape of `tensors`, both as they are."""
        return {"weight": codes.contiguous(), "weight_scale": scale.to(self.scale_dtype).contiguous()}

    def are_sound(self, tensors: Mapping[str, Any], *, reordered: bool) -> bool:
        """See `GroupedTensors`."""
        return not self.fault(tensors["weight"][...], tensors["weight_scale"][...])

    def fault(self, weight: torch.Tensor, scale: torch.Tensor) -> str:
        """Return what is wrong with the values of tensors of the right shapes; empty for nothing."""
        nan = "weight holds NaN" if self.kind == "float" and has_nan(weight) else ""
        return self.fault_of_scale(scale) or nan

    def fault_of_scale(self, scale: torch.Tensor) -> str:
        """Return what is wrong with the values of scales; empty for nothing."""
        if not scale.isfinite().all():
            return "weight_scale holds NaN or infinity"
        return "weight_scale holds negative numbers" if (scale < 0).any() else ""

    def decode(self, tensors: Mapping[str, torch.Tensor]) -> "ByteRows":
        """See `StoredTensors`."""
        return ByteRows(self, tensors["weight"], tensors["weight_scale"])

    def encode(self, codes: Codes) -> dict[str, LazyTensor]:
        """See `StoredTensors`: of codes of integers, with one scale an output."""

        def weight() -> torch.Tensor:
            rows = (codes.codes(part).T.to(torch.int16) - 128 for part in output_blocks(codes))
            return torch.cat([part.to(torch.int8) for part in rows])

        def weight_scale() -> torch.Tensor:
            return codes.scale(slice(0, self.out_features)).T.contiguous()

        tensors = self.tensors()
        makers = {"weight": weight, "weight_scale": weight_scale}
        return {name: LazyTensor(*tensors[name], make) for name, make in makers.items()}

    def __str__(self) -> str:
        """Return what `print(model)` shows of it."""
        scales = "a scale an output" if self.block is None else f"a scale for {self.block[0]} x {self.block[1]}"
        return f"{self.kind}8, {scales}, inputs rounded"


class ByteRows(Codes):
    """The codes in the tensors of a `ByteTensors`.

    Where each output has one scale, the inputs are multiplied with the codes themselves, which every type represents
    exactly, and the products are scaled.

    Args:
        stored: how they are stored.
        weight: the codes, [out, in].
        scale: those of outputs or blocks.
    """

    expands_fast = True

    def __init__(self, stored: ByteTensors, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.bits = stored.bits
        self.in_features = stored.in_features
        self.out_features = stored.out_features
        self.inputs_per_scale = stored.inputs_per_scale
        self.centered = stored.centered
        self.holds_floats = stored.holds_floats
        self.device = weight.device
        self.rows = weight if stored.kind == "int" else None
        self.zero_points = _middle
        self.round_inputs = inputs_rounding(stored.kind, -1 if stored.block is None else stored.block[1])
        self._block = stored.block
        self._weight = weight
        self._scale = scale

    def codes(self, outputs: slice) -> torch.Tensor:
        """See `Codes`; float8 has none.

        Raises:
            TypeError: the codes are float8.
        """
        if self.rows is None:
            raise TypeError("float8 codes are no integers: use `expanded`")
        return (self.rows[outputs].to(torch.int16) + 128).to(torch.uint8).T.contiguous()

    def scale(self, outputs: slice) -> torch.Tensor:
        """See `Codes`."""
        if self._block is None:
            return self._scale[outputs].T
        rows = torch.arange(outputs.start, outputs.stop, device=self.device) // self._block[0]
        return self._scale[rows].T

    def expanded(self, outputs: slice, dtype: torch.dtype) -> torch.Tensor:
        """See `Codes`."""
        # [groups, outputs] -> [outputs, groups] or [outputs, in]
        scale = self.scale(outputs).T.float()
        if self._block is not None:
            scale = scale.repeat_interleave(self._block[1], dim=1)[:, : self.in_features]
        return self._values(outputs).mul_(scale).to(dtype).T

    def unscaled(self, outputs: slice, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Codes`. Scaled in float16, where sums of products with codes could exceed the maximum, 65504."""
        if self._block is not None or dtype == torch.float16:
            return self.expanded(outputs, dtype), None
        codes = self._weight[outputs].to(dtype) if self.rows is not None else self._values(outputs).to(dtype)
        return codes.T, self._scale[outputs, 0]

    def _values(self, outputs: slice) -> torch.Tensor:
        """Return the codes of some outputs as float32, [outputs, in]."""
        rows = self._weight[outputs]
        return rows.float() if self.rows is not None else float8_values(rows)


def _middle(outputs: slice) -> int:
    """Return the zero point of unsigned 8-bit codes, for `Codes.zero_points`."""
    return 128
