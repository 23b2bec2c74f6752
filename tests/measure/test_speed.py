"""The machine's speed is measured once and kept; a damaged or unwritable file costs nothing."""

import json
from pathlib import Path

import pytest
import torch

from qtoolkit.measure.speed import measure_speed

pytestmark = pytest.mark.once


def test_it_is_measured_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "speed.json"
    first = measure_speed(tmp_path, file)
    assert min(first.multiply, first.multiply32, first.memory, first.disk) > 1e6
    kept = json.loads(file.read_text())
    (key,) = kept
    file.write_text(json.dumps({key: {"multiply": 1.0, "multiply32": 2.0, "memory": 3.0}, "another machine": {}}))
    second = measure_speed(tmp_path, file)
    assert (second.multiply, second.multiply32, second.memory) == (1.0, 2.0, 3.0)


def test_where_bfloat16_is_slow_its_speed_is_that_of_float32(tmp_path: Path, older_processor: None) -> None:
    found = measure_speed(tmp_path, tmp_path / "speed.json")
    assert found.multiply == found.multiply32


def test_another_kind_of_processor_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "speed.json"
    measure_speed(tmp_path, file)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    measure_speed(tmp_path, file)
    assert len(json.loads(file.read_text())) == 2


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    file.write_text("{")
    assert measure_speed(tmp_path, file).multiply > 1e6
    assert len(json.loads(file.read_text())) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert measure_speed(tmp_path / "none", tmp_path / "file" / "speed.json").multiply > 1e6
