"""How a weight is stored in integer codes: types, shapes and bytes of what stands for it; the way there and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from qtoolkit.tensor import (
    absmax_quantize,
    code_range,
    dequantize,
    from_groups,
    pack_int4,
    scale_shape,
    to_groups,
    unpack_int4,
    zero_point_quantize,
)


@dataclass(frozen=True)
class Scheme:
    """Absmax or zero-point codes of 8 or 4 bits for a weight W[out_features, in_features].

    | tensor | type | shape |
    |---|---|---|
    | weight | int8 (8 bits), or two codes in a uint8 (4 bits) | [out, in], or [out, in / 2] |
    | scale | float32, or float16 for granularity "group" | `qtoolkit.tensor.scale_shape` |
    | zero_point | int8; absent when symmetric | as scale |

    Group scales are float16 because there are many: with groups of 64, float32 would cost 0.25 bits per weight more.

    Attributes:
        bits: 8 or 4.
        granularity: which weights share one scale: "tensor", "channel" (one output row) or "group".
        group_size: weights per scale; -1 unless granularity is "group".
        symmetric: absmax codes if true, zero-point codes otherwise.
    """

    bits: int
    granularity: str
    group_size: int
    symmetric: bool

    def buffers(self, out_features: int, in_features: int) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
        """Shape and type of each tensor that stands for a weight of this shape.

        Raises:
            ValueError: bits or a granularity that there is not, a group size that does not divide in_features, or an
                odd in_features with 4 bits; the message says which.
        """
        code_range(self.bits, self.symmetric)
        if self.bits == 4 and in_features % 2:
            raise ValueError(f"in_features must be even for 4 bits, two codes in a byte, got {in_features}")
        scales = scale_shape(out_features, in_features, self.granularity, self.group_size)
        buffers = {
            "weight": ((out_features, in_features * self.bits // 8), torch.int8 if self.bits == 8 else torch.uint8),
            "scale": (scales, torch.float16 if self.granularity == "group" else torch.float32),
        }
        return buffers if self.symmetric else buffers | {"zero_point": (scales, torch.int8)}

    def stored_bytes(self, out_features: int, in_features: int) -> int:
        """Bytes of the tensors of `buffers`: codes, scales and zero points.

        Example: 64 x 128 codes of 4 bits, and a float16 scale for each 32 of them, 4096 + 512 bytes.

            >>> Scheme(4, "group", 32, symmetric=True).stored_bytes(64, 128)
            4608
        """
        buffers = self.buffers(out_features, in_features).values()
        return sum(rows * columns * dtype.itemsize for (rows, columns), dtype in buffers)

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors of `buffers` for a full-precision weight, contiguous and on its device.

        Beside the weight, results and temporaries take at most 5 bytes per weight and 20 per scale; a transposed
        weight (Conv1D) is copied before, unless granularity is "channel".

        Args:
            weight: W[out_features, in_features], any floating type, finite.

        Raises:
            ValueError: integers, NaN or infinity in the weight, or what `buffers` refuses.
        """
        if not weight.is_floating_point():
            raise ValueError(f"weight must have a floating type, got {weight.dtype}: it was cast or quantized already")
        scales, scale_dtype = self.buffers(*weight.shape)["scale"]
        groups = to_groups(weight, self.granularity, self.group_size)
        # Scales and zero points: [num_groups, 1] -> [rows of scales, scales in a row]
        if self.symmetric:
            codes, scale = absmax_quantize(groups, self.bits, scale_dtype=scale_dtype)
            tensors = {"scale": scale.view(scales)}
        else:
            q_min, q_max = code_range(self.bits, self.symmetric)
            codes, scale, zero_point = zero_point_quantize(groups, q_min, q_max, scale_dtype=scale_dtype)
            tensors = {"scale": scale.view(scales), "zero_point": zero_point.view(scales)}
        codes = from_groups(codes, *weight.shape)
        return {"weight": pack_int4(codes) if self.bits == 4 else codes, **tensors}

    def dequantize(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight that the tensors of `quantize` stand for, float32 [out_features, in_features]."""
        codes = unpack_int4(tensors["weight"]) if self.bits == 4 else tensors["weight"]
        # [rows of scales, scales in a row] -> [num_groups, 1]
        zero_point = None if self.symmetric else tensors["zero_point"].reshape(-1, 1)
        scale = tensors["scale"].reshape(-1, 1)
        groups = dequantize(to_groups(codes, self.granularity, self.group_size), scale, zero_point)
        return from_groups(groups, *codes.shape)
