"""A loaded folder shows the settings that its files tell, and no default of the method that reads it."""

import json
from pathlib import Path

import pytest

import qtoolkit as qt
from tests.formats.awq import awq_files
from tests.formats.gptq.files import Recipe, write_checkpoint
from tests.sample_models import random_model


def test_a_foreign_folder_tells_nothing_of_calibration(tmp_path: Path) -> None:
    write_checkpoint(Recipe(), tmp_path)
    result = qt.load(tmp_path / "gptq", device="cpu")
    assert isinstance(result, qt.QuantizedModel)
    assert dict(result.report.settings) == {
        "format": "gptq",
        "bits": 4,
        "group_size": 32,
        "sym": True,
        "desc_act": False,
        "order": "natural",
        "damp_percent": 0.1,
        "true_sequential": False,
        "checkpoint_format": "gptq",
        "embeddings": None,
        "lossy": False,
    }


@pytest.mark.slow
def test_what_was_converted_claims_nothing_that_its_source_did_not(tmp_path: Path) -> None:
    awq_files.write_checkpoint(awq_files.Recipe(), tmp_path)
    qt.convert(tmp_path / "packed", "gptq_v2", tmp_path / "v2")
    qt.convert(tmp_path / "v2", "compressed-tensors", tmp_path / "ct")
    values = json.loads((tmp_path / "v2" / "config.json").read_text())["quantization_config"]
    assert not values["static_groups"] and not values["desc_act"]
    packed = json.loads((tmp_path / "ct" / "config.json").read_text())["quantization_config"]
    assert packed["config_groups"]["group_0"]["weights"]["actorder"] is None


def test_a_folder_of_our_own_is_shown_as_it_was_made(tmp_path: Path) -> None:
    config = qt.AbsMax(bits=4, granularity="group", group_size=32, format="gptq", full_range=True)
    made = qt.quantize(random_model("llama"), config, device="cpu", output=tmp_path / "out")
    again = qt.load(tmp_path / "out", device="cpu")
    assert isinstance(again, qt.QuantizedModel)
    assert dict(again.report.settings) == dict(made.report.settings)
