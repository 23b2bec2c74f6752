"""AWQ codes taken over by formats that hold zero points."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from tests.formats.awq.awq_files import Recipe, packed_by_the_formula, write_checkpoint
from tests.formats.quantized_folders import write
from tests.sample_models import plain_logits

TOKENS = torch.arange(2, 34).reshape(2, 16)


def logits(folder: Path) -> torch.Tensor:
    result = qt.load(folder, device="cpu", dtype="float32")
    assert isinstance(result, qt.QuantizedModel)
    return plain_logits(result.model, TOKENS)


@pytest.mark.parametrize("format_", ["compressed-tensors", "gptq_v2"])
def test_logits_stay_as_they_are(format_: str, tmp_path: Path) -> None:
    write_checkpoint(Recipe(), tmp_path)
    qt.convert(tmp_path / "packed", format=format_, output=tmp_path / "other")
    assert torch.equal(logits(tmp_path / "other"), logits(tmp_path / "packed"))


def test_a_zero_point_of_0_has_no_place_in_the_first_gptq(tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe(), tmp_path)
    name = "model.layers.0.mlp.up_proj.qzeros"
    for wanted, zeros in ((0, torch.zeros(2, 128)), (1, torch.ones(2, 128))):
        write(tmp_path / "packed", tensors | {name: packed_by_the_formula(zeros)}, Recipe().config)
        if wanted:
            # Other layers may have groups without negative weights.
            lifted = {key: one for key, one in tensors.items() if not key.endswith(".qzeros")}
            lifted |= {
                key: packed_by_the_formula(torch.ones(len(one), 8 * one.shape[1]))
                for key, one in tensors.items()
                if key.endswith(".qzeros")
            }
            write(tmp_path / "packed", lifted, Recipe().config)
            qt.convert(tmp_path / "packed", format="gptq", output=tmp_path / "other")
            assert torch.equal(logits(tmp_path / "other"), logits(tmp_path / "packed"))
            assert not load_file(tmp_path / "other" / "model.safetensors")[name].any()
        else:
            with pytest.raises(ConfigError, match="compressed-tensors"):
                qt.convert(tmp_path / "packed", format="gptq", output=tmp_path / "other")


def test_layers_that_are_left_stay_as_they_are_and_are_told(tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe(left=("o_proj", "1.mlp.up_proj")), tmp_path)
    told = qt.convert(tmp_path / "packed", format="compressed-tensors", output=tmp_path / "other").notes
    assert "3 layers stay as they are, not quantized: self_attn.o_proj, mlp.up_proj" in told
    again = load_file(tmp_path / "other" / "model.safetensors")
    assert torch.equal(again["model.layers.1.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"])


def test_a_layer_that_the_config_leaves_and_the_file_has_quantized_is_told(tmp_path: Path) -> None:
    tensors = write_checkpoint(Recipe(), tmp_path)
    config = Recipe().config | {"modules_to_not_convert": ["mlp.up"]}
    write(tmp_path / "packed", tensors, config)
    told = qt.convert(tmp_path / "packed", format="gptq_v2", output=tmp_path / "other").notes
    said = "quantized in the file, though named in modules_to_not_convert; read as the file has it"
    assert f"model.layers.0.mlp.up_proj and 1 more: {said}" in told
    assert not any("stay as they are" in note for note in told)
    assert "model.layers.0.mlp.up_proj.qweight" in load_file(tmp_path / "other" / "model.safetensors")
