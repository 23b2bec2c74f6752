"""Products of any number of tokens come in few shapes, and each row is what it is by itself."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

from qtoolkit.tensor import cross_products, hessian
from qtoolkit.tensor.cross_products import CrossProducts
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.tensor.padded_rows import PaddedProducts, padded
from tests.tensor.product_shapes import ProductShapes

pytestmark = pytest.mark.once

COUNTS = (0, 1, 2, 3, 5, 17, 31, 33, 63, 65, 90, 127, 129, 200, 257, 300)
WEIGHT, BIAS = torch.randn(6, 8).bfloat16(), torch.randn(6).bfloat16()


@pytest.mark.parametrize("bias", [None, BIAS], ids=["plain", "bias"])
def test_a_linear_layer_meets_few_shapes(newer_processor: None, bias: torch.Tensor | None) -> None:
    """Each output is one rounding away from float64's."""
    with ProductShapes() as shapes:
        for count in COUNTS:
            x = torch.randn(count, 8).bfloat16()
            with PaddedProducts():
                y = F.linear(x, WEIGHT, bias)
            wanted = F.linear(x.double(), WEIGHT.double(), None if bias is None else bias.double())
            assert y.shape == (count, 6)
            assert ((y.double() - wanted).abs() <= 2**-8 * wanted.abs() + 1e-2).all()
    assert {inputs[0] for *_, inputs, _ in shapes.seen} == {0, 1, 2, 4, 8, 32, 64, 128, 192, 256, 320}


def test_other_products_are_as_they_are(newer_processor: None) -> None:
    """Those of float32 keep nothing, and all samples together are as many in each block."""
    with PaddedProducts(), ProductShapes() as shapes:
        F.linear(torch.randn(5, 8), WEIGHT.float())
        assert F.linear(torch.randn(3, 5, 8).bfloat16(), WEIGHT).shape == (3, 5, 6)
        assert torch.equal(F.linear(input=torch.zeros(5, 8).bfloat16(), weight=WEIGHT), torch.zeros(5, 6).bfloat16())
    assert {inputs[0] for inputs, _ in shapes.seen} == {5, 15}


def test_a_processor_that_multiplies_in_float32_gets_no_more_rows(older_processor: None) -> None:
    with PaddedProducts(), ProductShapes() as shapes:
        F.linear(torch.randn(5, 8).bfloat16(), WEIGHT)
    assert {inputs[0] for inputs, _ in shapes.seen} == {5}


def test_gradients_are_those_without_zeros(newer_processor: None) -> None:
    found = []
    for products in (PaddedProducts(), nullcontext()):
        x, weight = torch.ones(5, 8).bfloat16().requires_grad_(), WEIGHT.clone().requires_grad_()
        with products:
            F.linear(x, weight).sum().backward()
        found.append((x.grad, weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_hessian_and_cross_products_meet_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hessian, cross_products):
        monkeypatch.setattr(module, "bfloat16_is_native", lambda: True)
    parts = [torch.randn(count, 8).bfloat16() for count in COUNTS if count]
    sums, products = Hessian(8, torch.device("cpu")), CrossProducts(8, 3, torch.device("cpu"))
    with ProductShapes() as shapes:
        for part in parts:
            sums.add(part)
            products.add(part, part[:, :3])
    x = torch.cat(parts).double()
    assert sums.num_inputs == len(x)
    assert (sums.full() - x.T @ x).abs().max() < 0.01 * len(x)
    assert (products.sum - x.T @ x[:, :3]).abs().max() < 0.01 * len(x)
    assert {inputs[1] for inputs, _ in shapes.seen} == {1, 2, 4, 8, 32, 64, 128, 192, 256, 320}


def test_sizes_grow_by_an_eighth_at_most() -> None:
    """Of more than 64 rows; and no row is lost."""
    sizes = {count: len(padded(torch.empty(count, 0))) for count in range(20_000)}
    assert all(count <= size <= max(2 * count, 1) for count, size in sizes.items())
    assert all(size - count < max(64, count / 8 + 1) for count, size in sizes.items() if count > 64)
    assert len(set(sizes.values())) < 60
