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
