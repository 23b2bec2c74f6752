"""The Hessian is the sum of products of inputs, whatever their shape, type and portions."""

import pytest
import torch

from qtoolkit.tensor.hessian import Hessian

pytestmark = pytest.mark.once

CPU = torch.device("cpu")


@pytest.mark.parametrize("in_features", [3, 256, 300, 700])
def test_it_is_the_product_of_all_inputs(in_features: int) -> None:
    inputs = torch.randn(500, in_features)
    hessian = Hessian(in_features, CPU)
    for part in inputs.split([100, 1, 399]):
        hessian.add(part)
    wanted = inputs.double().T @ inputs.double()
    assert hessian.num_inputs == 500
    assert (hessian.full() - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_less_than_sampling_does(dtype: torch.dtype) -> None:
    inputs = torch.randn(4096, 300).to(dtype)
    hessian = Hessian(300, CPU)
    for part in inputs.split(1024):
        hessian.add(part)
    wanted = inputs.double().T @ inputs.double()
    scale = wanted.diagonal().sqrt()
    relative = (hessian.full() - wanted) / (scale[:, None] * scale)
    # 4,096 samples leave an uncertainty of 1/64 in each correlation.
    assert relative.abs().max() < 0.1 / 64


def test_it_is_symmetric_to_the_bit() -> None:
    hessian = Hessian(600, CPU)
    hessian.add(torch.randn(50, 600).bfloat16())
    full = hessian.full()
    assert torch.equal(full, full.T)


def test_inputs_of_several_dimensions_are_tokens() -> None:
    inputs = torch.randn(2, 5, 8)
    flat, deep = Hessian(8, CPU), Hessian(8, CPU)
    flat.add(inputs.reshape(10, 8))  # [2, 5, 8] -> [10, 8]
    deep.add(inputs)
    assert deep.num_inputs == 10
    assert torch.equal(flat.full(), deep.full())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_count_each_input_as_often_as_they_say(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3000, 300, generator=generator).to(dtype)
    weights = torch.rand(3000, generator=generator) ** 4 * 20
    if dtype == torch.float16:
        # It holds this number, but not its product with the root of the weight.
        inputs[0, 0], weights[0] = 30_000, 9
    hessian = Hessian(300, CPU)
    for some in (slice(0, 2500), slice(2500, 3000)):
        hessian.add(inputs[some], weights[some])
    wanted = inputs.double().T @ torch.diag(weights.double()) @ inputs.double()
    assert hessian.num_inputs == 3000
    assert (hessian.full() - wanted).norm() < (3e-3 if dtype == torch.bfloat16 else 1e-5) * wanted.norm()


def test_weights_of_one_change_nothing() -> None:
    inputs = torch.randn(100, 40)
    plain, weighted = Hessian(40, CPU), Hessian(40, CPU)
    plain.add(inputs)
    weighted.add(inputs, torch.ones(100))
    assert torch.equal(plain.full(), weighted.full())
