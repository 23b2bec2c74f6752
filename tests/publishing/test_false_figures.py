"""A receipt whose figures are not those of the files fails a check: they would stand on the card."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import VerificationError
from qtoolkit.publishing import file_checks
from tests.publishing.checks import checks_of

pytestmark = pytest.mark.slow

METHODS = ["nf4", "fp4", "int8", "absmax", "zero_point", "gptq", "gptq_v2", "sharded"]


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let buffers take less than these small models do."""
    monkeypatch.setattr(file_checks, "_BUFFER_BYTES", 100_000)


def with_figures(folder: Path, copy: Path, changes: dict[str, Any], **memory: int) -> Path:
    """Copy a model, and change its receipt as somebody would who wants a better card."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / "qtoolkit.json").read_text())
    values["memory"] |= memory
    (copy / "qtoolkit.json").write_text(json.dumps(values | changes))
    return copy


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_layers", [0, 13, 15])
def test_another_number_of_layers_is_told(made: dict[str, Path], tmp_path: Path, name: str, num_layers: int) -> None:
    folder = with_figures(made[name], tmp_path / "copy", {"num_layers": num_layers})
    check = checks_of(folder, running=False)["quantization config"]
    assert (check.passed, check.value) == (False, f"14 layers are quantized instead of {num_layers}")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("footprint", [0, 5, 100_000_000], ids=["none", "a few bytes", "much more"])
def test_a_footprint_that_such_tensors_do_not_have_is_told(
    made: dict[str, Path], tmp_path: Path, name: str, footprint: int
) -> None:
    folder = with_figures(made[name], tmp_path / "copy", {}, footprint_after=footprint)
    check = checks_of(folder, running=False)["dtypes and sizes"]
    assert check.passed is False
    assert "a memory footprint of " in check.value


@pytest.mark.usefixtures("run_here")
def test_nothing_is_published_with_them(made: dict[str, Path], tmp_path: Path) -> None:
    folder = with_figures(made["absmax"], tmp_path / "copy", {"num_layers": 99}, footprint_after=5)
    with pytest.raises(
        VerificationError, match=r"a memory footprint of 5 bytes.*14 layers are quantized instead of 99"
    ):
        qt.publish(folder, "me/x", dry_run=True)
