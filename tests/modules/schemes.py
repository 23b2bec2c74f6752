"""The schemes that a layer can have, and its weight worked out with plain loops."""

import pytest
import torch

from qtoolkit.modules import QuantizedLinear, Scheme

SCHEMES = [
    Scheme(bits, granularity, group_size, symmetric)
    for bits in (8, 4)
    for granularity, group_size in (("tensor", -1), ("channel", -1), ("group", 16))
    for symmetric in (True, False)
]


def name_of(scheme: Scheme) -> str:
    return f"{scheme.bits} bits a {scheme.granularity} {'absmax' if scheme.symmetric else 'zero-point'}"


every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)


def quantized(linear: torch.nn.Module, scheme: Scheme) -> QuantizedLinear:
    return QuantizedLinear.from_linear(
        linear,
        bits=scheme.bits,
        granularity=scheme.granularity,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
    )


def weight_of(layer: QuantizedLinear) -> torch.Tensor:
    """The weight that a layer's buffers stand for, number by number in float64 [out, in]."""
    out_features, in_features = layer.out_features, layer.in_features
    stored, scale = layer.weight.tolist(), layer.scale.tolist()
    zero_point = None if layer.zero_point is None else layer.zero_point.tolist()
    weight = torch.empty(out_features, in_features, dtype=torch.float64)
    for row in range(out_features):
        for column in range(in_features):
            code = stored[row][column] if layer.scheme.bits == 8 else nibble(stored[row][column // 2], column % 2)
            i = row % len(scale)
            j = column * len(scale[0]) // in_features
            weight[row, column] = (code - (zero_point[i][j] if zero_point else 0)) * scale[i][j]
    return weight


def nibble(byte: int, half: int) -> int:
    code = byte // 16 if half else byte % 16
    return code - 16 if code > 7 else code
