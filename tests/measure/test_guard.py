"""A job is stopped before memory runs out, and what it had done is kept."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import InsufficientMemoryError
from qtoolkit.measure import guard
from qtoolkit.records import ProgressEvent
from tests.methods.gptq.jobs import gptq

EVENT = ProgressEvent("quantize", 1, 2, "layers")


def test_with_enough_left_nothing_happens() -> None:
    seen: list[ProgressEvent] = []
    guard.guarded(seen.append, "the job", "wait", available=lambda: 10**13)(EVENT)
    assert seen == [EVENT]


def test_too_little_left_stops_the_job_once_it_was_told() -> None:
    seen: list[ProgressEvent] = []
    watch = guard.guarded(seen.append, "nf4 of x", "take fewer bits", available=lambda: 1_000_000)
    with pytest.raises(InsufficientMemoryError, match=r"nf4 of x was stopped with 1.0 MB .*: take fewer bits"):
        watch(EVENT)
    assert seen == [EVENT]


def test_a_stopped_job_keeps_its_blocks(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = qt.quantize(tiny_llama, gptq(), output=tmp_path / "whole", device="cpu")
    left = [10**13]
    monkeypatch.setattr(guard.guarded, "__kwdefaults__", {"available": lambda: left[0]})

    def squeeze(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done == 9:
            left[0] = 1_000_000

    told = "gptq of .* was stopped .* blocks that are done are kept"
    with pytest.raises(InsufficientMemoryError, match=told):
        qt.quantize(tiny_llama, gptq(), output=tmp_path / "out", device="cpu", on_progress=squeeze)
    left[0] = 10**13
    result = qt.quantize(tiny_llama, gptq(), output=tmp_path / "out", device="cpu")
    assert result.report.calibration is not None and result.report.calibration.resumed == 1
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "whole"))
    assert first.read_bytes() == second.read_bytes()
    assert whole.path == tmp_path / "whole"
