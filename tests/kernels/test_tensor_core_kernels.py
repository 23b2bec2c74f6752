"""Triton's product in tensor cores, run by its interpreter: of every layout, with the exact weight."""

import pytest
import torch

from qtoolkit.formats.compressed_tensors.byte_tensors import ByteTensors
from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import gpu_products, tinygemm
from qtoolkit.kernels.codes import Codes
from qtoolkit.kernels.packed_int4 import KERNEL, PackedInt4
from qtoolkit.kernels.tinygemm import Layout, _unpack_tiles
from tests.interpreting_triton import skip_unless
from tests.kernels.gptq_layers import Kind, gptq_layer, weight_of
from tests.kernels.packing_tiles import pack_tiles

pytestmark = pytest.mark.once
skip_unless(interpreted=True)

TILES, BLOCKS = Layout(0, 32), Layout(64, None)
CASES = [
    *((Kind(bits, sym=bits != 3), TILES) for bits in (2, 3)),
    (Kind(4, order="act", sym=False), TILES),
    # Tiles of 64 and of 32 inputs, and the last step of 128 half empty; the second's outputs are no whole program.
    (Kind(4, in_features=192, out_features=64), TILES),
    (Kind(4, in_features=96, out_features=72, sym=False), TILES),
    # Two programs for each output, groups of a step's size.
    (Kind(4, group_size=128, in_features=1024, out_features=64), TILES),
    (Kind(4, group_size=-1, sym=False), BLOCKS),
    (Kind(4, group_size=48, in_features=192), BLOCKS),
    (Kind(8, sym=False, order="act"), BLOCKS),
]


@pytest.fixture(autouse=True)
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are packed and multiplied as on a card with tensor cores where the kernels run."""
    monkeypatch.setattr(tinygemm, "_pack_tiles", pack_tiles)
    monkeypatch.setattr(gpu_products, "may_use_triton", lambda device: True)
    monkeypatch.setattr(gpu_products, "has_tensor_cores", lambda device: True)
    monkeypatch.setattr(PackedInt4, "multiply", PackedInt4._multiply_on_gpu)


@pytest.mark.parametrize(("kind", "layout"), CASES, ids=[f"{kind} in {layout.block}" for kind, layout in CASES])
def test_the_weight_is_rounded_once_and_sums_are_exact(kind: Kind, layout: Layout) -> None:
    codes = PackedInt4(gptq_layer(kind)._codes().sorted(), layout)
    weight = weight_of(kind) if codes.order is None else weight_of(kind)[:, codes.order]
    x = torch.randn(19, kind.in_features)
    found = codes.multiply(x.half())
    assert found is not None
    assert found.dtype == torch.float16
    expected = x.half().double() @ weight.half().double().T
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-3
    assert ((found - expected).norm() / expected.norm()).item() < 3e-4


class PlainCodes(Codes):
    """Codes of any width, in groups of 32 inputs."""

    def __init__(self, bits: int) -> None:
        self.bits, self.in_features, self.out_features, self.inputs_per_scale = bits, 64, 64, 32
        self.device = torch.device("cpu")
        self.zero_points = lambda outputs: 2 ** (bits - 1)
        self._codes = torch.randint(2**bits, (64, 64), dtype=torch.uint8)
        self._scale = torch.randn(2, 64)

    def codes(self, outputs: slice) -> torch.Tensor:
        return self._codes[:, outputs].clone()

    def scale(self, outputs: slice) -> torch.Tensor:
        return self._scale[:, outputs]


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_bytes_hold_fewer_bits_too(bits: int) -> None:
    source = PlainCodes(bits)
    everything = slice(0, 64)
    weight = source.expanded(everything, torch.float32)
    codes = PackedInt4(source, BLOCKS)
    assert torch.equal(codes.codes(everything), source.codes(everything))
    assert torch.equal(codes.expanded(everything, torch.float32), weight)
    for tokens in (2, 19):
        x = torch.randn(tokens, 64).half()
        found = codes.multiply(x)
        assert found is not None
        expected = x.double() @ weight.half().double()
        assert ((found - expected).norm() / expected.norm()).item() < 1e-3


@pytest.mark.parametrize("tiles", [8, 4, 2])
def test_words_hold_their_inputs_in_this_order(tiles: int) -> None:
    """What the k-th half bytes of an output's words are, one after the other, as torch unpacks them."""
    from qtoolkit.kernels.tensor_core_kernels import _in_word_order

    in_features = 16 * tiles
    numbers = torch.arange(in_features)
    order = _in_word_order(numbers[None].float(), tiles)[0].long()
    for place in range(in_features):
        codes = torch.zeros(in_features, 8, dtype=torch.uint8)
        codes[order[place], 3] = 1
        # [1, 1, 32, tiles / 2]: an output has four threads, each with tiles / 2 words.
        words = pack_tiles(codes)[0, 0, 12:16].flatten()
        number, word = divmod(place, 2 * tiles)
        assert words[word] == 1 << 4 * number
        assert words.count_nonzero() == 1


@pytest.mark.parametrize("sizes", [("channel", -1), ("tensor", -1), ("group", 32)], ids=str)
def test_eight_bits_are_one_byte_each_and_come_back(sizes: tuple[str, int]) -> None:
    stored = NativeTensors(64, 64, bits=8, granularity=sizes[0], group_size=sizes[1], symmetric=True)
    shape, dtype = stored.tensors()["scale"]
    tensors = {
        "weight": torch.randint(-128, 128, (64, 64), dtype=torch.int8),
        "scale": torch.randn(shape).to(dtype),
    }
    source = stored.decode(tensors)
    packed = KERNEL.pack(source)
    assert packed is not None
    assert sum(tensor.nbytes for tensor in packed.buffers().values()) == KERNEL.packed_bytes(stored, source.device)
    assert all(torch.equal(lazy[...], tensors[name]) for name, lazy in stored.encode(packed).items())
    x = torch.randn(9, 64).half()
    found = packed.multiply(x)
    assert found is not None
    expected = x.double() @ source.expanded(slice(0, 64), torch.float32).double()
    assert ((found - expected).norm() / expected.norm()).item() < 1e-3


def test_float8_and_rows_with_zero_points_are_not_packed() -> None:
    rows = NativeTensors(64, 64, bits=8, granularity="channel", group_size=-1, symmetric=False)
    for stored in (ByteTensors(128, 128, kind="float"), rows):
        assert not KERNEL.takes(stored, torch.device("cuda", 0))


def test_what_asks_a_device_agrees() -> None:
    # The interpreter has no products in bfloat16.
    assert gpu_products.products_agree_in(torch.float16, torch.device("cpu"))


@pytest.mark.parametrize(
    ("tokens", "dtype", "layout", "way"),
    [
        (1, torch.float16, BLOCKS, "vectors"),
        (8, torch.float32, BLOCKS, "vectors"),
        (9, torch.float16, BLOCKS, "tensor cores"),
        (128, torch.bfloat16, BLOCKS, "tensor cores"),
        (9, torch.bfloat16, TILES, "tensor cores"),
        (129, torch.float16, TILES, "expand"),
        (9, torch.float32, BLOCKS, "expand"),
        (1, torch.float64, BLOCKS, "expand"),
    ],
    ids=str,
)
def test_one_chooser(tokens: int, dtype: torch.dtype, layout: Layout, way: str) -> None:
    x = torch.empty(tokens, 128, dtype=dtype)
    kernel = gpu_products.kernel_for(x, num_planes=1, block=layout.block, inputs_per_scale=32)
    names = {"vectors": "multiply_planes", "tensor cores": "multiply_by_tensor_cores"}
    assert getattr(kernel, "__name__", None) == names.get(way)


def test_tiles_are_those_that_torch_unpacks() -> None:
    codes = torch.randint(0, 16, (96, 24), dtype=torch.uint8)
    assert torch.equal(_unpack_tiles(pack_tiles(codes), 96, slice(0, 24)), codes)
