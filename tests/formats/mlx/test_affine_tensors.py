"""What the tensors of an MLX checkpoint stand for, and the room they take."""

import itertools

import pytest
import torch

from qtoolkit.formats.compressed_tensors.tensors import PackedTensors
from qtoolkit.formats.mlx.tensors import AffineTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes
from qtoolkit.measure.footprint import memory_footprint

KINDS = [
    *(AffineTensors(64, 128, bits=bits, group_size=32) for bits in (2, 3, 4, 5, 6, 8)),
    *(AffineTensors(64, 128, bits=4, group_size=size, scale_dtype=torch.float16) for size in (64, 128)),
    AffineTensors(64, 128, bits=8, group_size=64, scale_dtype=torch.float32),
    AffineTensors(7, 96, bits=3, group_size=32),
]
every_kind = pytest.mark.parametrize("stored", KINDS, ids=lambda one: f"{one} {one.scale_dtype}")


def drawn(stored: AffineTensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Any codes uint8 [in, out], and scales [groups, out] of both signs that every type holds."""
    torch.manual_seed(0)
    codes = torch.randint(2**stored.bits, (stored.in_features, stored.out_features), dtype=torch.uint8)
    scale = torch.randn(stored.in_features // stored.group_size, stored.out_features) * 0.01
    return codes, scale.bfloat16().float()


def layer_of(stored: AffineTensors) -> QuantizedLinear:
    codes, scale = drawn(stored)
    middle = torch.full_like(scale, 2 ** (stored.bits - 1))
    layer = QuantizedLinear(stored, bias=False)
    for name, tensor in stored.store(codes, scale, middle, torch.arange(len(codes)) // stored.group_size).items():
        getattr(layer, name).copy_(tensor)
    return layer


def read_slowly(layer: QuantizedLinear, stored: AffineTensors) -> torch.Tensor:
    """W float64 [out, in] as `mlx.core.dequantize` is documented, each row of words as one long number."""
    weight = torch.empty(stored.out_features, stored.in_features, dtype=torch.float64)
    scales, biases = layer.get_buffer("scales").tolist(), layer.get_buffer("biases").tolist()
    for row, words in enumerate(layer.get_buffer("weight").tolist()):
        number = sum(word << 32 * place for place, word in enumerate(words))
        for column in range(stored.in_features):
            code = number >> stored.bits * column & 2**stored.bits - 1
            group = column // stored.group_size
            weight[row, column] = code * scales[row][group] + biases[row][group]
    return weight


@every_kind
def test_both_ways_round_codes_and_scales_are_exact(stored: AffineTensors) -> None:
    codes, scale = drawn(stored)
    layer = layer_of(stored)
    expected = (codes.double() - 2 ** (stored.bits - 1)) * scale.double().repeat_interleave(stored.group_size, 0)
    assert torch.equal(read_slowly(layer, stored), expected.T)
    assert torch.equal(layer.dequantize(), expected.T.float())


@every_kind
def test_packed_for_a_kernel_it_is_the_same(stored: AffineTensors) -> None:
    layer = layer_of(stored)
    weight, before = layer.dequantize(), {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert stored_bytes(stored) == sum(tensor.nbytes for tensor in before.values())
    assert torch.equal(layer.prepare().dequantize(), weight)
    assert memory_bytes(stored, device="cpu") == memory_footprint(layer)
    after = layer.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    x = torch.randn(3, stored.in_features).bfloat16()
    expected = x.double() @ weight.double().T
    assert (layer(x).double() - expected).norm() <= 0.005 * expected.norm()


@pytest.mark.parametrize(("dtype", "bits"), list(itertools.product((torch.float16, torch.bfloat16), (2, 8))))
def test_minima_are_exact_for_every_scale_that_gptq_gives(dtype: torch.dtype, bits: int) -> None:
    """From the smallest normal float16 on, as long as the minimum is in the type's range."""
    significant = torch.arange(128, 256).double()
    scales = torch.stack([significant * 2.0**exponent for exponent in range(-21, 1)]).T.to(dtype)  # [128, 22]
    stored = AffineTensors(128, 22 * 32, bits=bits, group_size=32, scale_dtype=dtype)
    codes = torch.zeros(22 * 32, 128, dtype=torch.uint8)
    middle = torch.full((22, 128), 2 ** (bits - 1))
    tensors = stored.store(codes, scales.T, middle, torch.arange(22 * 32) // 32)
    assert torch.equal(tensors["biases"].double(), scales.double() * -(2 ** (bits - 1)))
    assert stored.are_sound(tensors, reordered=False)


def test_asymmetric_codes_are_not_stored() -> None:
    stored = KINDS[2]
    codes, scale = drawn(stored)
    with pytest.raises(ValueError, match="zero points must be 8"):
        stored.store(codes, scale, torch.full_like(scale, 7), torch.arange(128) // 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 7}, "bits must be one of 2, 3, 4, 5, 6, 8, got 7"),
        ({"group_size": 96}, "group_size must be one of 32, 64, 128 and divide 192 inputs, got 96"),
        ({"group_size": 128}, "group_size must be one of 32, 64, 128 and divide 192 inputs, got 128"),
    ],
)
def test_layers_that_there_are_not(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stored_bytes(AffineTensors(**{"out_features": 64, "in_features": 192, "bits": 4, "group_size": 32} | changes))


def test_packed_for_a_kernel_minima_take_no_memory() -> None:
    """As in the format that has none, but for the 16 bytes of its `weight_shape`."""
    with_minima = AffineTensors(64, 128, bits=4, group_size=32)
    without = PackedTensors(64, 128, bits=4, group_size=32)
    assert memory_bytes(with_minima, device="cpu") == memory_bytes(without, device="cpu") - 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_that_mlx_cannot_multiply_with_all_codes_are_refused(
    bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    stored = AffineTensors(8, 32, bits=bits, group_size=32, scale_dtype=dtype, symmetric=symmetric)
    codes = torch.full((32, 8), 2**bits - 1, dtype=torch.uint8)
    zeros, groups = torch.full((1, 8), 2 ** (bits - 1)), torch.zeros(32, dtype=torch.int64)
    held = torch.full((1, 8), torch.finfo(dtype).max / 2**bits)
    tensors = stored.store(codes, held, zeros, groups)
    assert tensors["biases"].isfinite().all()
    for store in (
        lambda: stored.store(codes, 2 * held, zeros, groups),
        lambda: stored.recode(stored.decode({**tensors, "scales": 2 * tensors["scales"]})),
    ):
        with pytest.raises(ValueError, match=r"^MLX multiplies scales up to \S+ with codes up to (15|255) in \w+, "):
            store()
