"""Fixtures of adapters: one small model, quantized once."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.records import Repair

TEXT = ["".join(f"Tower {n} is {2 * n} years older than the town, and nobody knows who built it. " for n in range(90))]
OTHER_TEXT = ["".join(f"Rain fell on harbour {n} while {n + 3} clerks counted ropes and ships. " for n in range(90))]
MORE = [
    "".join(f"Recipe {n} asks for {n + 2} eggs, butter and {3 * n} minutes beside a warm oven. " for n in range(90))
]
SMALL = {"calibration": MORE, "num_samples": 8, "seq_len": 64, "text": OTHER_TEXT, "num_tokens": 256, "device": "cpu"}
RECIPE = {"bits": 4, "group_size": 32, "calibration": TEXT, "num_samples": 16, "seq_len": 64}


@pytest.fixture(scope="session")
def quantized_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Llama in GPTQ of 4 bits."""
    folder = tmp_path_factory.mktemp("adapters") / "tiny-gptq"
    qt.quantize(tiny_llama, qt.GPTQ(**RECIPE), output=folder, device="cpu")
    return folder


@pytest.fixture(scope="session")
def repaired(quantized_folder: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Repair:
    """What repairing it gives."""
    output = tmp_path_factory.mktemp("repair") / "adapter"
    return qt.repair(quantized_folder, tiny_llama, output, rank=16, **SMALL)
