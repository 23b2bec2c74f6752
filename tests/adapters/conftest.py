"""Fixtures of adapters: one small model, quantized once."""

from pathlib import Path

import pytest

import qtoolkit as qt

TEXT = ["".join(f"Tower {n} is {2 * n} years older than the town, and nobody knows who built it. " for n in range(90))]
RECIPE = {"bits": 4, "group_size": 32, "calibration": TEXT, "num_samples": 16, "seq_len": 64}


@pytest.fixture(scope="session")
def quantized_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama in GPTQ of 4 bits."""
    folder = tmp_path_factory.mktemp("adapters") / "tiny-gptq"
    qt.quantize(tiny_llama, qt.GPTQ(**RECIPE), output=folder, device="cpu")
    return folder
