"""A model that was read back is saved as it was, whoever quantized it."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import equal

import qtoolkit as qt
from tests.methods.gptq.jobs import gptq


@pytest.mark.parametrize(
    "config", [qt.NF4(), qt.FP4(double_quant=False), qt.Int8(), qt.AbsMax(), gptq()], ids=lambda config: config.method
)
def test_what_was_read_back_is_saved_the_same(tiny_llama: Path, tmp_path: Path, config: object) -> None:
    qt.quantize(tiny_llama, config, output=tmp_path / "first", device="cpu")
    qt.load(tmp_path / "first", device="cpu").save(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(equal(first[name], second[name]) for name in first)
