"""Other people's AWQ checkpoints, written in formats that more programs load."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from tests.formats.awq import awq_files
from tests.jobs.converted import weights_of
from tests.jobs.test_converting import TOKENS, logits, shapes_of
from tests.sample_models import plain_logits

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    awq_files.write_checkpoint(awq_files.Recipe(left=("v_proj",)), tmp_path)
    return tmp_path / "packed"


@pytest.mark.parametrize("name", ["compressed-tensors", "gptq_v2"])
def test_the_same_weights_in_another_format(name: str, source: Path, tmp_path: Path) -> None:
    record = qt.convert(source, name, tmp_path / "out")
    assert (record.source_format, record.num_layers) == ("awq", 12)
    dense = tmp_path / "dense"
    shapes = shapes_of(dense, source)
    full = load_file(dense / "model.safetensors")
    for layer, weight in weights_of(tmp_path / "out", shapes).items():
        # The product of a float16 scale and a number of 5 bits is exact in float32.
        assert np.array_equal(weight, full[f"{layer}.weight"].double().numpy()), layer
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32), TOKENS)
    torch.testing.assert_close(logits(tmp_path / "out"), expected, rtol=1e-4, atol=1e-5)


def test_a_zero_point_of_0_has_no_room_in_gptq(source: Path, tmp_path: Path) -> None:
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.qzeros"].zero_()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"zero points of 0 .*give format='compressed-tensors' or format='gptq_v2'$"):
        qt.convert(source, "gptq", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"asymmetric codes .*give lossy=True .* or format='gptq_v2'$"):
        qt.convert(source, "mlx", tmp_path / "out")
    qt.convert(source, "gptq_v2", tmp_path / "out")


def test_zero_points_above_0_go_to_gptq(source: Path, tmp_path: Path) -> None:
    file = source / "model.safetensors"
    tensors = load_file(file)
    for key in tensors:
        if key.endswith(".qzeros"):
            tensors[key].fill_(0x21436587)
    save_file(tensors, file, {"format": "pt"})
    qt.convert(source, "gptq", tmp_path / "one")
    qt.convert(source, "gptq_v2", tmp_path / "two")
    shapes = shapes_of(tmp_path / "dense", source)
    one, two = (weights_of(tmp_path / name, shapes) for name in ("one", "two"))
    assert all(np.array_equal(one[layer], weight) for layer, weight in two.items())
