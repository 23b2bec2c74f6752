"""What a job saved passes: every method, with and without what it came from, here and in a process of its own."""

import json
import shutil
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.optional import is_installed
from tests.publishing.checks import checks_of

pytestmark = pytest.mark.slow

METHODS = ["nf4", "fp4", "int8", "absmax", "zero_point", "gptq", "gptq_v2", "sharded"]


@pytest.mark.parametrize("name", METHODS)
def test_every_check_passes(made: dict[str, Path], base: Path, name: str) -> None:
    checks = checks_of(made[name], base=base)
    assert [str(check) for check in checks.values() if check.passed is not True and check.name in CHECKED] == []
    assert set(checks) - CHECKED <= {"loads in gptqmodel"}
    assert checks["logits"].value.startswith("off by 0 of"), "the same machine computes the same"


CHECKED = {
    *("receipt", "file hashes", "safetensors", "index", "dtypes and sizes", "config", "quantization config"),
    *("no pickles", "no code", "no secrets", "no local paths", "no calibration text", "licence", "base model"),
    *("loads in transformers", "logits", "perplexity", "token ids", "chat template", "special tokens"),
    *("generation config", "a program loads it"),
}


@pytest.mark.parametrize(
    ("name", "reader"),
    [("nf4", "without qtoolkit"), ("zero_point", "once qtoolkit is imported"), ("gptq", None)],
    ids=["nf4", "zero_point", "gptq"],
)
def test_a_fresh_process_agrees(made: dict[str, Path], name: str, reader: str | None) -> None:
    verification = qt.verify(made[name])
    assert verification.passed, str(verification)
    assert {check.name for check in verification.checks} - {"loads in gptqmodel"} == CHECKED
    assert {check.name for check in verification.unchecked} <= {"loads in gptqmodel"}
    through = is_installed("gptqmodel") and is_installed("optimum")
    expected = reader or ("through optimum and gptqmodel" if through else "once qtoolkit is imported")
    assert any(check.value.endswith(expected) for check in verification.checks)


def test_smollm2_passes(smollm2: Path, tmp_path: Path) -> None:
    folder = qt.quantize(smollm2, "int8", device="cpu", output=tmp_path / "out").path
    assert folder is not None
    verification = qt.verify(folder, base=smollm2)
    assert verification.passed, str(verification)
    # No card names a licence, which is told and not made up.
    assert [check.name for check in verification.unchecked] == ["licence"]


def test_without_a_receipt_it_is_told_what_was_not_checked(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    (folder / "qtoolkit.json").unlink()
    checks = checks_of(folder)
    assert {name for name, check in checks.items() if check.passed is False} == set()
    unknown = {name for name, check in checks.items() if check.passed is None}
    assert unknown >= {"receipt", "file hashes", "dtypes and sizes", "base model", "logits", "perplexity", "token ids"}
    assert checks["loads in transformers"].passed


def test_the_base_stands_in_for_a_receipt(made: dict[str, Path], base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    (folder / "qtoolkit.json").unlink()
    checks = checks_of(folder, base=base)
    assert all(checks[name].passed for name in ("token ids", "chat template", "special tokens", "generation config"))


def test_saved_again_it_passes_again(made: dict[str, Path], tmp_path: Path) -> None:
    loaded = qt.load(made["absmax"], device="cpu")
    assert isinstance(loaded, qt.QuantizedModel)
    first, second = (
        json.loads((folder / "qtoolkit.json").read_text())
        for folder in (made["absmax"], loaded.save(tmp_path / "again"))
    )
    assert first == second
    assert all(check.passed for check in checks_of(tmp_path / "again").values())


def test_a_plain_model_passes_as_far_as_it_goes(base: Path) -> None:
    checks = checks_of(base)
    assert [str(check) for check in checks.values() if check.passed is False] == []
    assert checks["loads in transformers"].passed
    assert checks["quantization config"].passed is None
