"""Checks are told one by one, and whoever is told may stop them: no process is left running."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

import qtoolkit as qt
from qtoolkit.publishing import behaviour, process, run_cache
from qtoolkit.records import Check, ProgressEvent, Verification
from tests.publishing.test_planted_defects import new

pytestmark = pytest.mark.slow

VERBS = pytest.mark.parametrize("verb", ["verify", "publish"])


def checked(verb: str, folder: Path, **told: Any) -> Verification:
    if verb == "verify":
        return qt.verify(folder, **told)
    return qt.publish(folder, "me/x", dry_run=True, **told).verification


def children() -> list[int]:
    """The processes of ours that run a model."""
    found = []
    for one in psutil.Process(os.getpid()).children(recursive=True):
        with one.oneshot():
            if one.status() != psutil.STATUS_ZOMBIE and behaviour.__file__ in one.cmdline():
                found.append(one.pid)
    return found


def test_each_check_is_told_once_in_order_and_those_of_files_before_the_model_runs(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of its own, which is told by its command line.
    monkeypatch.setattr(process, "subprocess", subprocess)
    told: list[Check] = []
    running: list[int] = []
    events: list[ProgressEvent] = []

    def on_progress(event: ProgressEvent) -> None:
        events.append(event)
        if children():
            running.append(len(told))

    verification = qt.verify(made["nf4"], on_check=told.append, on_progress=on_progress)
    assert tuple(told) == verification.checks
    assert verification.passed, str(verification)
    names = [check.name for check in told]
    assert set(running) == {names.index("loads in transformers")}
    assert names.index("file hashes") < names.index("licence") < running[0]

    counts = [event.done for event in events]
    assert counts == sorted(counts) and set(range(1, len(told) + 1)) == set(counts)
    assert {(event.phase, event.total, event.unit) for event in events} == {("verify", 0, "checks")}
    assert events[-1].detail == names[-1]


def test_publishing_tells_the_checks_too(made: dict[str, Path]) -> None:
    told: list[Check] = []
    checks = checked("publish", made["nf4"], on_check=told.append).checks
    assert tuple(told) == checks


@pytest.mark.parametrize("name", ["bad.bin", "code.py"])
def test_what_is_not_loaded_is_told_too(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(made["nf4"], tmp_path / "copy")
    new(name, "x")(folder)
    told: list[Check] = []
    verification = qt.verify(folder, on_check=told.append)
    assert tuple(told) == verification.checks
    assert (told[-1].name, told[-1].passed) == ("loads in transformers", None)


@VERBS
@pytest.mark.parametrize("name", ["receipt", "licence"])
def test_raising_stops_at_that_check(made: dict[str, Path], verb: str, name: str) -> None:
    told: list[str] = []

    def stop(check: Check) -> None:
        told.append(check.name)
        if check.name == name:
            raise qt.JobCancelled

    with pytest.raises(qt.JobCancelled):
        checked(verb, made["nf4"], on_check=stop)
    assert told[-1] == name
    assert children() == []


@VERBS
def test_stopped_while_the_model_runs_its_process_is_ended(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    run_cache.clear()
    # Python runs this file at its start.
    done = tmp_path / "done"
    (tmp_path / "sitecustomize.py").write_text(f"import time; time.sleep(5); open({str(done)!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen: list[int] = []

    def stop(_event: ProgressEvent) -> None:
        seen.extend(children())
        if seen:
            raise qt.JobCancelled

    with pytest.raises(qt.JobCancelled):
        checked(verb, made["nf4"], on_progress=stop)
    assert len(seen) == 1
    assert children() == []
    assert not done.exists()
