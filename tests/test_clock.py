"""A clock that is set, at daylight saving time or by a time server, changes nothing: only monotonic time is read."""

import ast
import time
from pathlib import Path

import pytest

import qtoolkit
from qtoolkit.hub.repository import fetch
from tests.fake_hub.fixture import writable_hub
from tests.fake_hub.writable import WritableHub
from tests.hub.hub_models import accept, ignore_progress, single
from tests.publishing.pushing import files, pushed

__all__ = ["files", "writable_hub"]
PACKAGE = Path(qtoolkit.__file__).parent
MONOTONIC = {"monotonic", "perf_counter", "process_time", "sleep"}
# The date of a file is no reading of a clock.
OF_FILES = {"datetime", "fromtimestamp"}


@pytest.mark.parametrize("module", ["time", "datetime"])
def test_no_wall_clock_is_read(module: str) -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module:
                found.add(node.attr)
            if isinstance(node, ast.ImportFrom) and node.module == module:
                found |= {name.name for name in node.names}
    assert found <= MONOTONIC | OF_FILES


@pytest.mark.parametrize("step", [3600.0, -3600.0], ids=["forwards", "backwards"])
def test_a_clock_that_jumps_while_files_come_and_go(
    writable_hub: WritableHub, files: dict[str, Path], step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    now = [time.time()]

    def jumping() -> float:
        now[0] += step
        return now[0]

    monkeypatch.setattr(time, "time", jumping)
    writable_hub.add("org/model", single())
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert {file.name: file.read_bytes() for file in snapshot.folder.iterdir()} == single()
    assert snapshot.checked.startswith("checked")
    commit, _ = pushed(files)
    assert writable_hub.repositories["me/tiny"].refs["main"] == commit
