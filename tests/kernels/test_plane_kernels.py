"""Triton's kernel that expands codes, run by its interpreter: the weights of every layout, bit for bit."""

import pytest
import torch

from qtoolkit.kernels import gpu_products, tinygemm
from qtoolkit.kernels.packed_int4 import PackedInt4
from qtoolkit.kernels.tinygemm import Layout
from tests.interpreting_triton import skip_unless
from tests.kernels.gptq_layers import Kind, gptq_layer, weight_of
from tests.kernels.packing_tiles import pack_tiles

pytestmark = pytest.mark.once
skip_unless(interpreted=True)

KINDS = [
    *(Kind(bits, sym=bits != 4) for bits in (2, 3, 4, 8)),
    *(Kind(bits, sym=False, order="act") for bits in (4, 8)),
    Kind(4, group_size=-1),
    Kind(4, in_features=96, out_features=192),
    # Summed by several programs.
    Kind(4, group_size=64, sym=False, in_features=768, out_features=64),
]
# Of torch's kernel on a CPU, of a GPU without one, and of its kernel on a GPU.
LAYOUTS = {"blocks": Layout(64, 32), "blocks without a kernel": Layout(64, None), "tiles": Layout(0, 32)}


@pytest.fixture(autouse=True)
def packs_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are packed by CUDA alone."""
    monkeypatch.setattr(tinygemm, "_pack_tiles", pack_tiles)


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes expand, and multiply, as on a T4 where the kernels run."""
    monkeypatch.setattr(gpu_products, "may_use_triton", lambda device: True)
    monkeypatch.setattr(gpu_products, "has_tensor_cores", lambda device: False)
    monkeypatch.setattr(PackedInt4, "multiply", PackedInt4._multiply_on_gpu)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_weight_is_that_of_the_stored_codes(kind: Kind, layout: Layout, by_kernel: None) -> None:
    if layout.group_size is None and kind.bits not in (4, 8):
        pytest.skip("codes of these bits are packed for torch's kernels alone")
    layer = gptq_layer(kind)
    codes = PackedInt4(layer._codes().sorted(), layout)
    expected = weight_of(kind)
    expected = expected if codes.order is None else expected[:, codes.order]
    everything = slice(0, kind.out_features)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(codes.expanded(everything, dtype).T, expected.to(dtype))
    # The interpreter cuts what a GPU rounds: by one unit of eight bits at most.
    found = codes.expanded(everything, torch.bfloat16).T.double()
    assert ((found - expected).abs() <= expected.abs() / 2**7).all()


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.bits in (4, 8)], ids=str)
def test_a_few_tokens_are_multiplied_with_the_exact_weight(kind: Kind, tokens: int, by_kernel: None) -> None:
    codes = PackedInt4(gptq_layer(kind)._codes().sorted(), Layout(64, None))
    x = torch.randn(tokens, kind.in_features)
    weight = weight_of(kind) if codes.order is None else weight_of(kind)[:, codes.order]
    for dtype, limit in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
        inputs = x.to(dtype)
        found = codes.multiply(inputs)
        assert found is not None
        assert found.dtype == dtype
        expected = inputs.double() @ weight.T
        assert ((found - expected).norm() / expected.norm()).item() < limit


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.bits in (4, 8)], ids=str)
def test_gradients_are_those_of_the_weight(kind: Kind, by_kernel: None) -> None:
    layer = gptq_layer(kind)
    layer._packed = PackedInt4(layer._codes().sorted(), Layout(64, None))
    weight = weight_of(kind)
    # The kernel multiplies a few tokens, and expands the weight for more, and for all gradients.
    for tokens in (3, 20):
        x = torch.randn(tokens, kind.in_features, requires_grad=True)
        y = layer(x)
        grad = torch.randn(y.shape)
        y.backward(grad)
        assert x.grad is not None
        expected = grad.double() @ weight
        assert ((x.grad - expected).norm() / expected.norm()).item() < 1e-5


def test_more_tokens_odd_groups_and_float64_are_not(by_kernel: None) -> None:
    codes = PackedInt4(gptq_layer(Kind(4))._codes(), Layout(64, None))
    assert codes.multiply(torch.randn(9, 128)) is None
    assert codes.multiply(torch.randn(1, 128).double()) is None
    codes = PackedInt4(gptq_layer(Kind(4, group_size=16))._codes(), Layout(64, None))
    assert codes.multiply(torch.randn(1, 128)) is None


def test_a_part_of_the_outputs(by_kernel: None) -> None:
    kind = Kind(4, out_features=192)
    for layout in LAYOUTS.values():
        codes = PackedInt4(gptq_layer(kind)._codes(), layout)
        whole = codes.expanded(slice(0, 192), torch.float32)
        assert torch.equal(codes.expanded(slice(64, 192), torch.float32), whole[:, 64:])


def test_what_asks_a_device_agrees() -> None:
    # Of codes and scales whose products bfloat16 holds: the interpreter cuts what a GPU rounds.
    assert gpu_products.planes_agree(torch.device("cpu"))
