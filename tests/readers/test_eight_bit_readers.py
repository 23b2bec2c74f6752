"""transformers of both ages reads FP8 and int8 W8A8 without qtoolkit: the same weights, and inputs rounded as ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear
from tests.formats.compressed_tensors.byte_files import model
from tests.sample_models import plain_logits

pytest.importorskip("compressed_tensors")
pytestmark = pytest.mark.slow
TRANSFORMERS_4 = Path(__file__).parent.parent.parent / ".venv-transformers-4" / "bin" / "python"
CONFIGS = {"channel": qt.FP8(), "block": qt.FP8(granularity="block"), "int": qt.W8A8()}
TOKENS = torch.arange(2, 34).reshape(1, 32)
READ = """
import sys; sys.modules["qtoolkit"] = None
import torch, transformers
from safetensors.torch import save_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        logits = model(torch.arange(2, 34).reshape(1, 32)).logits
    weights = {name: layer.weight for name, layer in model.named_modules() if name.endswith("_proj")}
    save_file({"logits": logits, **weights}, folder + "/read")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, qt.QuantizedModel]:
    """In float32, whose scales are exact: readers round inputs by the same numbers."""
    folder = tmp_path_factory.mktemp("eight-bits")
    model().float().save_pretrained(folder / "base")
    return {
        name: qt.quantize(folder / "base", config, device="cpu", output=folder / name)
        for name, config in CONFIGS.items()
    }


@pytest.fixture(scope="module", params=[sys.executable, TRANSFORMERS_4], ids=["this", "transformers 4"])
def read(request: pytest.FixtureRequest, made: dict[str, qt.QuantizedModel]) -> dict[str, Any]:
    """What plain transformers has in its layers and computes, by the names of the folders."""
    if not Path(request.param).exists():
        pytest.skip("make .venv-transformers-4/.ready")
    folders = {name: str(result.path) for name, result in made.items()}
    # The environment's own packages alone.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(request.param), "-c", READ, *folders.values()], check=True, env=environment)
    return {name: load_file(f"{folder}/read") for name, folder in folders.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_is_bit_for_bit_ours(name: str, read: Any, made: dict[str, qt.QuantizedModel]) -> None:
    layers = {key: one for key, one in made[name].model.named_modules() if isinstance(one, QuantizedLinear)}
    assert len(layers) == 14
    for key, layer in layers.items():
        assert torch.equal(read[name][key], layer.dequantize()), key


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_ours(name: str, read: Any, made: dict[str, qt.QuantizedModel]) -> None:
    """Apart from inputs between two levels, which the last bit decides.

    The package divides int8 inputs by 127.5, servers and we by 127: off by as much as rounding inputs adds.
    """
    ours = plain_logits(made[name].model, TOKENS)
    deviation = (ours - plain_logits(model().float(), TOKENS)).norm()
    allowed = 1.0 if name == "int" else 0.1
    assert deviation > 0
    assert (read[name]["logits"] - ours).norm() <= allowed * deviation
