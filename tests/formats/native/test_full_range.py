"""A folder of absmax codes with scales of either sign is read, and multiplied, as it was rounded."""

from pathlib import Path

import pytest
import torch

import qtoolkit as qt
from tests.sample_models import random_model


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_saved_layer_multiplies_with_the_rounded_weight(tmp_path: Path, bits: int, granularity: str) -> None:
    model = random_model("llama")
    name = "model.layers.0.mlp.down_proj"
    weight = model.get_submodule(name).weight.detach().float()
    config = qt.AbsMax(bits=bits, granularity=granularity, group_size=32, full_range=True)
    qt.quantize(model, config, output=tmp_path / "saved", device="cpu")
    layer = qt.load(tmp_path / "saved", device="cpu").model.get_submodule(name)
    # [out, in] -> [groups, group_size]
    size = {"tensor": weight.numel(), "channel": weight.shape[1], "group": 32}[granularity]
    groups = weight.reshape(-1, size)
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    scale = largest / -(2 ** (bits - 1))
    expected = ((groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale).reshape(weight.shape)
    identity = torch.eye(weight.shape[1], dtype=model.dtype)
    with torch.no_grad():
        multiplied = layer(identity).float().T
    torch.testing.assert_close(multiplied, expected, atol=0.02 * weight.abs().max().item(), rtol=0.02)
    saved = (tmp_path / "saved" / "config.json").read_text()
    assert '"full_range": true' in saved


def test_the_textbook_formula_is_the_default_and_writes_no_new_key(tmp_path: Path) -> None:
    qt.quantize(random_model("llama"), qt.AbsMax(), output=tmp_path / "saved", device="cpu")
    assert "full_range" not in (tmp_path / "saved" / "config.json").read_text()
