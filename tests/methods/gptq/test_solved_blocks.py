"""Codes of block types are solved: compared with the bytes that the `gguf` package reads back, in float64."""

import gguf
import numpy as np
import pytest
import torch

import qtoolkit as qt
from qtoolkit.methods.gptq.layer_inputs import Factored, LayerInputs
from qtoolkit.methods.gptq.solved_blocks import SolvedBlocks, solve_blocks
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.tensor.block_types import BLOCK_TYPES, quantize_rows

SOLVED = sorted(name for name, type_ in BLOCK_TYPES.items() if type_.grid is not None)
INPUTS, OUTPUTS, TOKENS = 512, 8, 2048
DAMP = 0.03


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    """W[out, in] with columns of different sizes, and a row and some blocks of zeros."""
    torch.manual_seed(0)
    weight = torch.randn(OUTPUTS, INPUTS) * torch.rand(INPUTS).add(0.2)
    weight[2] = 0
    weight[3, 256:320] = 0
    return weight


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """Inputs that resemble one another, as those of a model do, and one that is always zero."""
    torch.manual_seed(1)
    inputs = torch.randn(TOKENS, 40) @ torch.randn(40, INPUTS) / 6 + torch.randn(TOKENS, INPUTS) / 3
    inputs[:, 7] = 0
    return inputs


@pytest.fixture(scope="module")
def factored(inputs: torch.Tensor) -> Factored:
    seen = LayerInputs(["layer"], INPUTS, torch.device("cpu"))
    seen.add(GroupInputs(inputs))
    return seen.factored("activation", DAMP)


def values_of(packed: torch.Tensor, name: str) -> np.ndarray:
    kind = gguf.GGMLQuantizationType(BLOCK_TYPES[name].number)
    return gguf.dequantize(packed.numpy(), kind).astype(np.float64)


@pytest.mark.parametrize("name", SOLVED)
def test_the_error_that_is_told_is_that_of_the_bytes(weight: torch.Tensor, factored: Factored, name: str) -> None:
    """tr(E H E^T) of each output with the damped Hessian, E the weight less what the bytes stand for."""
    packed, loss = solve_blocks(weight.T.contiguous(), BLOCK_TYPES[name], factored)
    error = weight.double().numpy() - values_of(packed, name)
    hessian = factored.hessian.double().numpy()
    damped = hessian + factored.damp * np.diag(hessian).mean() * np.eye(INPUTS)
    damped[7, 7] = 1  # an input that is always zero
    wanted = np.einsum("oi,ij,oj->o", error, damped, error)
    np.testing.assert_allclose(loss.numpy(), wanted, rtol=2e-3, atol=1e-4 * wanted.max())


@pytest.mark.parametrize("name", SOLVED)
def test_outputs_change_less_than_by_rounding(
    weight: torch.Tensor, inputs: torch.Tensor, factored: Factored, name: str
) -> None:
    """Than with llama.cpp's search by the same importance, which chooses each code by itself."""
    x = inputs.double().numpy()
    rounded = quantize_rows(weight, BLOCK_TYPES[name], importance=factored.importance)
    solved, _ = solve_blocks(weight.T.contiguous(), BLOCK_TYPES[name], factored)
    errors = [np.square(x @ (weight.double().numpy() - values_of(one, name)).T).sum() for one in (rounded, solved)]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("name", SOLVED)
def test_zeros_stay_zeros(weight: torch.Tensor, factored: Factored, name: str) -> None:
    packed, _ = solve_blocks(weight.T.contiguous(), BLOCK_TYPES[name], factored)
    assert not values_of(packed, name)[2].any()


def test_layers_of_one_group_have_types_of_their_own(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    """As alone: q in Q4_K, v in Q6_K, both of the same inputs."""
    types = {"b.q": BLOCK_TYPES["Q4_K"], "b.v": BLOCK_TYPES["Q6_K"]}
    method = SolvedBlocks(qt.GPTQ(qep_alpha=0.0), types, "cpu")
    layers = {"q": weight, "v": weight.flip(0)}
    together = method.start([*types], INPUTS)
    together.add(GroupInputs(inputs))
    found = together.finish(layers)
    for layer, value in layers.items():
        alone = method.start([f"b.{layer}"], INPUTS)
        alone.add(GroupInputs(inputs))
        ((name, packed),) = alone.finish({layer: value})[layer].tensors.items()
        assert name == types[f"b.{layer}"].name
        assert torch.equal(found[layer].tensors[name], packed)
        assert torch.equal(
            method.dequantize("layer", {name: packed}), torch.from_numpy(values_of(packed, name)).float()
        )


def test_a_journal_with_other_blocks_is_not_taken(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    method = SolvedBlocks(qt.GPTQ(qep_alpha=0.0), {"b.q": BLOCK_TYPES["Q4_K"]}, "cpu")
    group = method.start(["b.q"], INPUTS)
    group.add(GroupInputs(inputs))
    result = group.finish({"q": weight})["q"]
    packed, facts, shapes = result.tensors["Q4_K"], {"b.q": result.facts}, {"b.q": (OUTPUTS, INPUTS)}
    assert method.fits(shapes, {"b.q.Q4_K": packed}, facts)
    infinite = packed.clone()
    infinite[0, 1] = 0x7C  # the upper byte of the first block's scale
    for tensors in ({"b.q.Q5_K": packed}, {"b.q.Q4_K": packed[:, :-1]}, {"b.q.Q4_K": infinite}, {}):
        assert not method.fits(shapes, tensors, facts)
    assert not method.fits(shapes, {"b.q.Q4_K": packed}, {"b.q": {**result.facts, "error": float("nan")}})
