"""GPTQ layers with random tensors, and their weight worked out bit by bit."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch

from qtoolkit.formats.gptq.tensors import GPTQTensors
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.tensor.int32_packing import pack_words

IN, OUT = 128, 128


@dataclass(frozen=True)
class Kind:
    """How a layer is quantized. Order of its groups: "plain", "act" (equal groups, mixed), "uneven" (any g_idx)."""

    bits: int
    group_size: int = 32
    sym: bool = True
    order: str = "plain"
    checkpoint_format: str = "gptq"
    in_features: int = IN
    out_features: int = OUT

    def __str__(self) -> str:
        words = [f"{self.bits} bits", self.checkpoint_format, "sym" if self.sym else "asym", self.order]
        words += [f"{self.in_features}x{self.out_features}", f"g{self.group_size}"]
        return " ".join(words)


KINDS = [
    *(Kind(bits) for bits in (2, 3, 4, 8)),
    *(Kind(bits, sym=False, order="act") for bits in (2, 3, 4, 8)),
    *(Kind(bits, sym=False, checkpoint_format="gptq_v2") for bits in (2, 3, 4, 8)),
    Kind(4, order="act"),
    Kind(3, order="uneven", sym=False),
    Kind(4, group_size=-1),
    Kind(4, group_size=-1, sym=False, in_features=512, out_features=64),
    # No kernel takes them; the second no layout either.
    Kind(4, group_size=16),
    Kind(4, group_size=16, out_features=160),
    Kind(8, group_size=16),
    # The last group is smaller than the others.
    Kind(4, group_size=96),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
# Those that torch's 4-bit kernels take on a CPU with AVX512 or AVX2.
KERNEL_KINDS = [
    kind for kind in KINDS if kind.order != "uneven" and kind.group_size in (-1, 32) and kind.out_features % 64 == 0
]
every_kernel_kind = pytest.mark.parametrize("kind", KERNEL_KINDS, ids=str)


def tensors_of(kind: Kind, *, scale_dtype: torch.dtype = torch.float16) -> GPTQTensors:
    return GPTQTensors(
        kind.out_features,
        kind.in_features,
        bits=kind.bits,
        group_size=kind.group_size,
        checkpoint_format=kind.checkpoint_format,
        scale_dtype=scale_dtype,
        centered=kind.sym,
    )


def gptq_layer(kind: Kind, *, bias: bool = True, seed: int = 0) -> QuantizedLinear:
    """A layer with any codes, scales of both signs, and any zero points that its format can tell apart."""
    torch.manual_seed(seed)
    layer = QuantizedLinear(tensors_of(kind), bias=bias)
    groups, stored_less = len(layer.scales), int(kind.checkpoint_format == "gptq")
    if kind.sym:
        stored = torch.full((kind.out_features, groups), 2 ** (kind.bits - 1) - stored_less, dtype=torch.uint8)
    else:
        stored = torch.randint(2**kind.bits, (kind.out_features, groups)).byte()
    layer.qweight.copy_(torch.randint(-(2**31), 2**31, layer.qweight.shape))
    layer.qzeros.copy_(pack_words(stored, kind.bits).T)
    layer.scales.copy_(torch.randn(layer.scales.shape) * 0.01)
    g_idx = torch.arange(kind.in_features) // layer.stored.inputs_per_scale
    if kind.order == "act":
        g_idx = g_idx[torch.randperm(kind.in_features)]
    if kind.order == "uneven":
        g_idx = torch.randint(groups, (kind.in_features,))
    layer.g_idx.copy_(g_idx)
    if bias:
        layer.bias.copy_(torch.randn(kind.out_features))
    return layer


@cache
def weight_of(kind: Kind) -> torch.Tensor:
    """W float64 [out, in] of `gptq_layer(kind)`: its words as long numbers, decoded as auto-gptq's torch layer does."""
    layer = gptq_layer(kind)
    state, bits = layer.state_dict(), kind.bits
    mask = 2**bits - 1
    codes = [_number(column) for column in state["qweight"].T.tolist()]
    zeros = [_number(row) for row in state["qzeros"].tolist()]
    scales, g_idx = state["scales"].tolist(), state["g_idx"].tolist()
    weight = torch.empty(layer.out_features, layer.in_features, dtype=torch.float64)
    for row in range(layer.out_features):
        for column, group in enumerate(g_idx):
            zero = zeros[group] >> bits * row & mask
            if kind.checkpoint_format == "gptq":
                zero = zero + 1 if bits == 3 else zero + 1 & mask
            weight[row, column] = ((codes[row] >> bits * column & mask) - zero) * scales[group][row]
    return weight


def _number(words: list[int]) -> int:
    return sum((word & 0xFFFFFFFF) << 32 * place for place, word in enumerate(words))
