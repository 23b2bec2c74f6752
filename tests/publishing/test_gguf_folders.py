"""A folder around a `.gguf` file is verified, and so can be published, whatever its architecture: qtoolkit reads it."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card import make_card
from qtoolkit.records import Check, Verification
from qtoolkit.requests import PublishRequest
from tests.formats.gguf.small_models import SMALL, small_model
from tests.publishing.checks import checks_of

# The first of each kind. The context of GPT-2 is another than transformers' own reader takes from its defaults.
TITLES = {kind: title for title, (kind, _) in reversed(SMALL.items())}


@pytest.mark.slow
@pytest.mark.parametrize("title", TITLES.values())
def test_a_folder_of_each_architecture_passes(title: str, run_here: list[str], tmp_path: Path) -> None:
    qt.quantize(small_model(title), qt.GGUF("Q8_0"), output=tmp_path / "out", device="cpu")
    verification = qt.verify(tmp_path / "out")
    assert verification.passed, str(verification)
    (loads,) = (check for check in verification.checks if check.name == "loads in transformers")
    assert loads.value.startswith(type(small_model(title)).__name__)
    assert loads.value.endswith("through qtoolkit")


def test_a_damaged_file_is_not_called_a_safetensors_file(tmp_path: Path) -> None:
    qt.quantize(small_model("qwen2"), qt.GGUF("Q8_0"), output=tmp_path / "out", device="cpu")
    (file,) = (tmp_path / "out").glob("*.gguf")
    file.write_bytes(file.read_bytes()[:-64])
    checks = checks_of(tmp_path / "out", running=False)
    assert checks["model file"].passed is False
    assert checks["dtypes and sizes"].passed is None
    assert checks["dtypes and sizes"].note == "see the check of the model file"


def test_its_card_loads_it_as_it_was_verified(tmp_path: Path) -> None:
    """By qtoolkit, from the file by its name."""
    qt.quantize(small_model("mixtral"), qt.GGUF("Q8_0"), output=tmp_path / "out", device="cpu")
    receipt = read_receipt(tmp_path / "out")
    assert receipt is not None
    request = PublishRequest("out", "me/tiny", license="mit", base_model="someone/tiny")
    text = make_card(receipt, Verification("out", (Check("logits", True, "off by 0"),)), request).text
    assert "qt.load('me/tiny/MixtralForCausalLM-Q8_0.gguf')\n" in text
    assert "AutoModelForCausalLM" not in text.split("## What was lost")[0].replace("MixtralForCausalLM", "")
