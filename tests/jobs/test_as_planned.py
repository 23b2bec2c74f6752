"""A job whose result is not what its plan says does not end as if it were."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.bitsandbytes import loader
from qtoolkit.jobs import quantizing
from qtoolkit.measure.footprint import memory_footprint
from tests.sample_models import random_model

METHODS = ("nf4", "int8")


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_that_was_left_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loader, "make_plain", lambda model, stored: None)
    with pytest.raises(UnsupportedModelError, match=rf"{name} left transformer\.h\.0\..* as it was \(8 of 8 layers\)"):
        qt.quantize(random_model("falcon"), name, output=tmp_path / "result")
    assert not list(tmp_path.iterdir())


def test_another_footprint_than_planned_is_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quantizing, "memory_footprint", lambda model: memory_footprint(model) + 16)
    q = qt.quantize(random_model("llama"), "absmax", output=tmp_path / "result")
    planned = q.memory.predicted_footprint_after
    assert planned is not None
    (warning,) = q.report.warnings
    assert f"takes {planned + 16:,} bytes in memory, and {planned:,} were planned" in warning
    assert ("warning", warning) == q.report.rows()[1][:2]
    assert q.receipt is not None
    assert warning in q.receipt.notes


def test_a_result_as_planned_has_no_warning() -> None:
    q = qt.quantize(random_model("llama"), "absmax")
    assert q.memory.footprint_after == q.memory.predicted_footprint_after
    assert q.report.warnings == ()
