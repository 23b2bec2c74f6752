"""Codes that were converted and converted back, or into smaller groups: nothing is left over or out of order."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import qtoolkit as qt
from tests.formats.gptq import files
from tests.jobs.converted import weights_of
from tests.sample_models import random_model


@pytest.mark.once
def test_no_entry_of_the_source_is_left(tmp_path: Path) -> None:
    files.write_checkpoint(files.Recipe(), tmp_path)
    qt.convert(tmp_path / "gptq", "mlx", tmp_path / "mlx")
    qt.convert(tmp_path / "mlx", "gptq", tmp_path / "back")
    assert "quantization" not in json.loads((tmp_path / "back" / "config.json").read_text())


@pytest.mark.once
def test_two_scales_an_output_are_repeated_in_order(tmp_path: Path) -> None:
    model = random_model("llama", num_hidden_layers=1, hidden_size=512, intermediate_size=512, num_attention_heads=8)
    config = qt.AbsMax(bits=4, granularity="group", group_size=256)
    qt.quantize(model, config, output=tmp_path / "packed", device="cpu")
    qt.convert(tmp_path / "packed", "mlx", tmp_path / "mlx")
    end = ".weight_shape"
    held = load_file(tmp_path / "packed" / "model.safetensors")
    shapes = {name.removesuffix(end): tuple(shape.tolist()) for name, shape in held.items() if name.endswith(end)}
    before, after = weights_of(tmp_path / "packed", shapes), weights_of(tmp_path / "mlx", shapes)
    assert shapes
    assert all(np.array_equal(before[name], after[name]) for name in shapes)
