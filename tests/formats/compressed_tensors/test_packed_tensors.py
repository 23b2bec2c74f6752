"""What the tensors of a compressed-tensors checkpoint stand for, and the room they take."""

from dataclasses import dataclass

import pytest
import torch

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes
from qtoolkit.measure.footprint import memory_footprint

pytestmark = pytest.mark.once


@dataclass(frozen=True)
class Kind:
    """How a layer is stored."""

    bits: int
    sym: bool = True
    group_size: int = 32
    out_features: int = 128
    in_features: int = 128
    scale_dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        kind = f"{self.bits} bits {'sym' if self.sym else 'asym'} g{self.group_size}"
        return f"{kind} {self.out_features}x{self.in_features} {str(self.scale_dtype).removeprefix('torch.')}"

    @property
    def tensors(self) -> PackedTensors:
        return PackedTensors(
            self.out_features,
            self.in_features,
            bits=self.bits,
            group_size=self.group_size,
            symmetric=self.sym,
            scale_dtype=self.scale_dtype,
        )


KINDS = [
    *(Kind(bits, sym) for bits in range(2, 9) for sym in (True, False)),
    *(Kind(bits, scale_dtype=torch.float16) for bits in (4, 8)),
    Kind(8, scale_dtype=torch.float32),
    Kind(4, group_size=-1),
    # Rows and columns of zero points that do not fill words.
    *(Kind(bits, sym=False, group_size=5, out_features=7, in_features=15) for bits in (3, 5, 6, 7)),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def layer_of(kind: Kind) -> QuantizedLinear:
    """A layer with any codes and zero points, and scales of both signs."""
    torch.manual_seed(0)
    layer = QuantizedLinear(kind.tensors, bias=False)
    codes = torch.randint(2**kind.bits, (kind.in_features, kind.out_features), dtype=torch.uint8)
    groups = torch.arange(kind.in_features) // kind.tensors.inputs_per_scale
    scale = torch.randn(int(groups[-1]) + 1, kind.out_features) * 0.01
    zero = torch.randint(2**kind.bits, scale.shape).float()
    for name, tensor in kind.tensors.store(codes, scale, zero, groups).items():
        getattr(layer, name).copy_(tensor)
    return layer


def weight_of(kind: Kind) -> torch.Tensor:
    """W float64 [out, in] of `layer_of(kind)`: its words as long numbers."""
    layer, bits = layer_of(kind), kind.bits
    mask = 2**bits - 1
    rows = [number(row) for row in layer.weight_packed.tolist()]
    scale, size = layer.weight_scale.tolist(), kind.tensors.inputs_per_scale
    zeros = None if kind.sym else [number(column) for column in layer.weight_zero_point.T.tolist()]
    weight = torch.empty(kind.out_features, kind.in_features, dtype=torch.float64)
    for row in range(kind.out_features):
        for column in range(kind.in_features):
            zero = zeros[column // size] >> bits * row & mask if zeros else 2 ** (bits - 1)
            weight[row, column] = ((rows[row] >> bits * column & mask) - zero) * scale[row][column // size]
    return weight


def number(words: list[int]) -> int:
    return sum((word & 0xFFFFFFFF) << 32 * place for place, word in enumerate(words))


@every_kind
def test_dequantized_as_the_bits_say(kind: Kind) -> None:
    # Scales of 16 bits need no rounding.
    assert torch.equal(layer_of(kind).dequantize(), weight_of(kind).float())


@every_kind
def test_prepared_it_stands_for_the_same_weight(kind: Kind) -> None:
    layer = layer_of(kind)
    expected, before = layer.dequantize(), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert torch.equal(layer.prepare().dequantize(), expected)
    after = layer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@every_kind
@pytest.mark.parametrize("tokens", [1, 200])
def test_products_are_those_of_the_weight(kind: Kind, tokens: int) -> None:
    x = torch.randn(tokens, kind.in_features).bfloat16()
    expected = x.double() @ layer_of(kind).dequantize().double().T
    y = layer_of(kind).prepare()(x)
    assert (y.double() - expected).norm() <= 0.005 * expected.norm()


@every_kind
def test_bytes_are_those_that_shapes_say(kind: Kind) -> None:
    layer = layer_of(kind)
    assert stored_bytes(kind.tensors) == sum(tensor.nbytes for tensor in layer.state_dict().values())
    assert memory_bytes(kind.tensors, device="cpu") == memory_footprint(layer.prepare())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 9}, "bits must be one of 2, 3, 4, 5, 6, 7, 8, got 9"),
        ({"group_size": 48}, "group_size must be -1 or divide 128 inputs, got 48"),
        ({"group_size": 0}, "group_size must be -1 or divide 128 inputs, got 0"),
    ],
)
def test_layers_that_there_are_not(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuantizedLinear(
            PackedTensors(**{"out_features": 64, "in_features": 128, "bits": 4, "group_size": 32} | changes), bias=False
        )
