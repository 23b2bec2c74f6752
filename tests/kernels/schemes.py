"""The schemes that a layer can have, and its weight worked out with plain loops."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.tensor.rounding import round_weight


@dataclass(frozen=True)
class Scheme:
    """How a layer is quantized."""

    bits: int
    granularity: str
    group_size: int
    symmetric: bool
    full_range: bool = False

    def tensors(self, out_features: int, in_features: int) -> NativeTensors:
        return NativeTensors(
            out_features,
            in_features,
            bits=self.bits,
            granularity=self.granularity,
            group_size=self.group_size,
            symmetric=self.symmetric,
        )

    def quantize(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors for a weight [out, in]."""
        tensors = self.tensors(*weight.shape)
        codes, scale, zero_point = round_weight(
            weight,
            bits=self.bits,
            granularity=self.granularity,
            group_size=self.group_size,
            symmetric=self.symmetric,
            full_range=self.full_range,
            scale_dtype=tensors.tensors()["scale"][1],
        )
        return tensors.store(codes, scale, zero_point)


SCHEMES = [
    Scheme(bits, granularity, group_size, symmetric)
    for bits in (8, 4)
    for granularity, group_size in (("tensor", -1), ("channel", -1), ("group", 16))
    for symmetric in (True, False)
]
# The smallest code, and scales of either sign.
SCHEMES += [replace(scheme, full_range=True) for scheme in SCHEMES if scheme.symmetric]


def name_of(scheme: Scheme) -> str:
    kind = "full-range" if scheme.full_range else "absmax" if scheme.symmetric else "zero-point"
    return f"{scheme.bits} bits a {scheme.granularity} {kind}"


every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)


def quantized(linear: nn.Linear | Conv1D, scheme: Scheme) -> QuantizedLinear:
    """The quantized layer of a full-precision one; `prepare` is for the caller."""
    # Conv1D: [in, out] -> [out, in]
    weight = linear.weight.detach().T if isinstance(linear, Conv1D) else linear.weight.detach()
    tensors = scheme.tensors(*weight.shape)
    layer = QuantizedLinear(tensors, bias=linear.bias is not None, device="meta")
    for name, tensor in scheme.quantize(weight).items():
        setattr(layer, name, tensor)
    if linear.bias is not None:
        layer.bias = linear.bias.detach()
    return layer


def weight_of(layer: QuantizedLinear) -> torch.Tensor:
    """The weight that a layer's buffers stand for, number by number in float64 [out, in]."""
    out_features, in_features = layer.out_features, layer.in_features
    stored, scale = layer.weight.tolist(), layer.scale.tolist()
    zero_point = None if layer.stored.symmetric else layer.zero_point.tolist()
    weight = torch.empty(out_features, in_features, dtype=torch.float64)
    for row in range(out_features):
        for column in range(in_features):
            code = stored[row][column] if layer.stored.bits == 8 else nibble(stored[row][column // 2], column % 2)
            i = row % len(scale)
            j = column * len(scale[0]) // in_features
            weight[row, column] = (code - (zero_point[i][j] if zero_point else 0)) * scale[i][j]
    return weight


def nibble(byte: int, half: int) -> int:
    code = byte // 16 if half else byte % 16
    return code - 16 if code > 7 else code
