"""A job of a panel: one at a time, drawn seldom, cancelled and failed in one line, and its result stays."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.panels.background import Worker
from qtoolkit.notebook.panels.job_runner import Job, JobRunner
from qtoolkit.notebook.panels.memory_chart import JobMemory
from qtoolkit.notebook.panels.progress_view import INTERVAL, PanelProgress, ProgressView
from qtoolkit.notebook.panels.results import Results
from qtoolkit.notebook.panels.verb_call import VerbCall
from qtoolkit.records import ProgressEvent, Row
from qtoolkit.records.base import Record


class Done(Record):
    """A result."""

    def rows(self) -> tuple[Row, ...]:
        return (Row("done", "<b>yes</b>"),)


@pytest.fixture
def results(shell: InteractiveShell) -> Results:
    return Results()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.cancelled.set()
    worker.wait(10)


def runner_of(worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch, work: Callable[..., Any]) -> JobRunner:
    """A runner whose button "Go" does `work` as the verb `plan`."""
    import qtoolkit.api

    monkeypatch.setattr(qtoolkit.api, "plan", work)
    return JobRunner(worker, results, {"Go": lambda: Job(VerbCall("plan", ("m",)), "plan of m", lambda found: found)})


def test_the_button_returns_at_once_and_the_result_stays(
    worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    runner = runner_of(worker, results, monkeypatch, lambda model, on_progress: gate.wait(10) and Done())
    runner.actions["Go"].press()
    assert worker.running
    gate.set()
    worker.wait(10)
    assert isinstance(results.records["plan"], Done)
    assert re.search(r"plan of m: done in \d", runner.view.status.value)


def test_a_second_job_is_refused_beside_the_button_and_the_first_goes_on(
    worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    runner = runner_of(worker, results, monkeypatch, lambda model, on_progress: gate.wait(10) and Done())
    runner.actions["Go"].press()
    runner.actions["Go"].press()
    assert runner.actions["Go"].problem == "a job is running: wait until it ends, or cancel it"
    assert not runner.actions["Go"].control.disabled
    gate.set()
    worker.wait(10)
    assert isinstance(results.records["plan"], Done)
    # Said no longer, once it is no longer true.
    assert runner.actions["Go"].problem == ""


def test_cancel_stops_it_at_its_next_event(worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, step = threading.Event(), threading.Event()

    def work(model: str, on_progress: Callable[[ProgressEvent], None]) -> None:
        on_progress(ProgressEvent("quantize", 1, 2, "layers"))
        begun.set()
        step.wait(10)
        on_progress(ProgressEvent("quantize", 2, 2, "layers"))

    runner = runner_of(worker, results, monkeypatch, work)
    runner.actions["Go"].press()
    assert begun.wait(10)
    runner.actions["Cancel"].press()
    # Until the step has ended, however often progress is drawn meanwhile.
    time.sleep(3 * INTERVAL)
    assert "plan of m: cancelling after the step that is running" in runner.view.status.value
    step.set()
    worker.wait(10)
    assert not worker.running and results.records == {}
    said = r"plan of m: cancelled after [\d.]+ s, in quantize at 2 of 2 layers \(100 %\); nothing is half-written<"
    assert re.search(said, runner.view.status.value)
    assert "left" not in runner.view.bars.value and "progressbar" not in runner.view.bars.value


def test_cancel_without_a_job_says_so(worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(worker, results, monkeypatch, lambda model, on_progress: Done())
    runner.actions["Cancel"].press()
    assert "no job is running" in runner.view.status.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("bits must be 4, got <5>"), "bits must be 4, got <5>"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), "KeyboardInterrupt: KeyboardInterrupt"),
    ],
    ids=["ours", "another", "no exception"],
)
def test_what_goes_wrong_is_one_line_and_the_button_works_again(
    worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch, error: BaseException, line: str
) -> None:
    def work(model: str, on_progress: Any) -> None:
        raise error

    runner = runner_of(worker, results, monkeypatch, work)
    for _ in range(2):
        runner.actions["Go"].press()
        worker.wait(10)
        assert results.records == {}
        assert line.replace("<", "&lt;").replace(">", "&gt;") in runner.view.status.value


def test_a_failure_takes_no_result_away_and_a_result_takes_the_failure_away(results: Results) -> None:
    for record in (Done(), "it exists"):
        results.add("quantize", "call", record)
    assert results.records["quantize"] == "it exists"
    kept = results._bundle()["text/plain"]
    assert str(Done()) in kept and kept.endswith("it exists")
    results.add("quantize", "call", Done())
    assert results._bundle()["text/plain"] == f"call\n{Done()}"


def test_what_ends_work_stays_below_the_panel_until_the_next_job(
    worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def work(model: str, on_progress: Callable[[ProgressEvent], None]) -> Done:
        on_progress(ProgressEvent("quantize", 1, 2, "layers"))
        if not gate.is_set():
            raise ConfigError("the disk is full")
        return Done()

    runner = runner_of(worker, results, monkeypatch, work)
    runner.actions["Go"].press()
    worker.wait(10)
    assert results.records == {"plan": "the disk is full"}
    # Told once: the panel says where.
    assert "the disk is full" not in runner.view.status.value and "below the panel" in runner.view.status.value
    gate.set()
    runner.actions["Go"].press()
    worker.wait(10)
    assert isinstance(results.records["plan"], Done) and "the disk is full" not in str(results._bundle())


def test_when_a_job_begins_the_last_error_of_its_verb_is_gone(results: Results) -> None:
    for verb in ("quantize", "compare"):
        results.add(verb, "call", f"why {verb} ended")
    results.forget_error("quantize")
    assert results.records == {"compare": "why compare ended"}


def test_a_field_that_is_wrong_starts_nothing(worker: Worker, results: Results) -> None:
    def refuse() -> Job:
        raise ConfigError("Tokens must be a whole number")

    runner = JobRunner(worker, results, {"Go": refuse})
    runner.actions["Go"].press()
    assert runner.actions["Go"].problem == "Tokens must be a whole number"
    assert not worker.running and results.records == {}


def test_of_a_thousand_layers_few_messages_reach_the_page(
    worker: Worker, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(model: str, on_progress: Callable[[ProgressEvent], None]) -> Done:
        for done in range(1, 1001):
            on_progress(ProgressEvent("quantize", done, 1000, "layers", f"layers.{done}"))
            on_progress(ProgressEvent("save", done, 1000, "layers", f"layers.{done}"))
            time.sleep(0.001)
        return Done()

    runner = runner_of(worker, results, monkeypatch, work)
    changes: list[str] = []
    for widget in (runner.view.bars, runner.view.status):
        widget.observe(lambda change: changes.append(change["new"]), names="value")
    started = time.monotonic()
    runner.actions["Go"].press()
    worker.wait(60)
    # Two texts each time, those of the beginning and the end besides.
    assert len(changes) <= 2 * (time.monotonic() - started) / INTERVAL + 6
    # The checks of a publication are a third.
    assert 3 / INTERVAL < 10
    assert any("of 1000 layers" in change for change in changes)
    assert max(map(len, changes)) < 5000


def test_each_phase_has_a_bar_and_the_same_as_text() -> None:
    view, progress = ProgressView(), PanelProgress("plan of m", threading.Event())
    progress(ProgressEvent("load", 5, 10, "layers", "<i>"))
    progress(ProgressEvent("quantize", 7, 0, "layers"))
    view.draw(progress, JobMemory(), lambda: None)
    shown = view.bars.value
    assert 'role="progressbar" aria-label="load" aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"' in shown
    assert "load: 5 of 10 layers (50 %)" in shown and "&lt;i&gt;" in shown and "<i>" not in shown
    # Of a phase whose end is not known, no share is claimed.
    assert 'aria-label="quantize" aria-valuemin="0" aria-valuemax="100" class' in shown
