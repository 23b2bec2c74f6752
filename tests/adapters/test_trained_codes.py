"""Codes that are trained: gradients compared with a plain formula, and what is stored with what was trained."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from qtoolkit.adapters.trained_codes import TrainedLinear
from qtoolkit.errors import CheckpointError, ConfigError, UnsupportedModelError
from qtoolkit.kernels import QuantizedLinear
from tests.adapters.test_lora_gradients import native_layer
from tests.kernels import gptq_layers, schemes

IDS = torch.arange(5, 69).reshape(2, 32)  # [samples, tokens]


def layers() -> dict[str, QuantizedLinear]:
    """One of each layout: groups in order and in another, zero points, one scale for all."""
    found = {str(kind): gptq_layers.gptq_layer(kind) for kind in gptq_layers.KINDS}
    return found | {schemes.name_of(one): native_layer(one)[0] for one in schemes.SCHEMES}


@pytest.mark.parametrize("name", layers())
def test_a_layer_begins_and_ends_as_its_codes(name: str) -> None:
    layer = layers()[name]
    expected = layer.dequantize()
    try:
        trained = TrainedLinear(layer.prepare())
    except UnsupportedModelError:
        pytest.skip("codes of floats, or inputs that are rounded")
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (trained(x) - x @ expected.T - (0 if layer.bias is None else layer.bias)).norm() < 1e-4
        assert torch.equal(trained.finish().dequantize(), expected)
        # Other weights and scales: what is stored computes what was trained.
        trained.weight.add_(0.02 * torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)))
        trained.scale.mul_(1.1)
        y = trained(x)
        assert torch.allclose(trained.finish()(x), y, atol=1e-5)
        assert not torch.allclose(y, x @ expected.T, atol=1e-2)


def test_gradients_are_those_of_the_formula() -> None:
    scheme = next(one for one in schemes.SCHEMES if "group" in schemes.name_of(one) and "4" in schemes.name_of(one))
    layer, _ = native_layer(scheme)
    trained = TrainedLinear(layer)
    with torch.no_grad():
        trained.weight.mul_(1.3)
    x = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(2))
    grad = torch.randn(7, layer.out_features, generator=torch.Generator().manual_seed(3))
    trained(x).backward(grad)
    of_weight = grad.T @ x  # [out, in], of a plain linear layer
    groups = trained.scale.shape[0]
    scale = trained.scale.detach().T.repeat_interleave(layer.in_features // groups, dim=1)
    zero = torch.as_tensor(trained.zero)
    level = trained.weight.detach() / scale + zero
    inside = (level >= 0) & (level <= trained.most)
    assert 0.5 < inside.float().mean() < 1
    code = level.clamp(0, trained.most).round()
    assert torch.allclose(trained.weight.grad, of_weight * inside, atol=1e-5)
    # LSQ: code - zero, less W / scale where the code is not clamped.
    of_scale = of_weight * (code - zero - torch.where(inside, trained.weight.detach() / scale, 0))
    expected = of_scale.view(layer.out_features, groups, -1).sum(-1).T
    assert torch.allclose(trained.scale.grad, expected, rtol=1e-3, atol=1e-4)


def test_a_model_learns_and_is_saved(quantized_folder: Path, tmp_path: Path) -> None:
    q = qt.load(quantized_folder, device="cpu")
    with qt.train_codes(q, include=["model.layers.1.*"]) as parameters:
        assert len(parameters) == 14
        adam = torch.optim.Adam(parameters, lr=3e-3)
        losses = []
        for _ in range(8):
            loss = q.model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            adam.step()
            adam.zero_grad()
            losses.append(loss.item())
        with torch.no_grad():
            expected = q.model(input_ids=IDS).logits
    assert losses[-1] < losses[0] - 0.05
    q.save(tmp_path / "trained")
    again = qt.load(tmp_path / "trained", device="cpu")
    with torch.no_grad():
        assert (again.model(input_ids=IDS).logits - expected).norm() < 0.01 * expected.norm()
    assert any("were trained (straight-through estimator)" in note for note in again.receipt.notes)
    first, other = (one.model.get_submodule("model.layers.0.mlp.up_proj") for one in (q, again))
    assert torch.equal(first.dequantize(), other.dequantize())


def test_codes_stay_where_training_fails(quantized_folder: Path) -> None:
    q = qt.load(quantized_folder, device="cpu")
    layer = q.model.get_submodule("model.layers.0.mlp.up_proj")
    with pytest.raises(CheckpointError, match="use a smaller rate"), qt.train_codes(q) as parameters:
        parameters[0].data.fill_(torch.nan)
    assert q.model.get_submodule("model.layers.0.mlp.up_proj") is layer
    with pytest.raises(ConfigError, match="no layer of integer codes has a name like none"), qt.train_codes(q, "none"):
        pass
    with pytest.raises(ConfigError, match=r"what qt\.quantize or qt.load returns, got int"), qt.train_codes(1):
        pass
