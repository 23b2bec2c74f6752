"""Progress of a running magic: text and bar, checked at the level of lines and widget traits."""

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from ipywidgets import Widget
from ipywidgets.widgets import widget as widget_module

from qtoolkit.errors import MissingDependencyError
from qtoolkit.notebook.progress import NoProgress, Progress, TextProgress, open_progress
from qtoolkit.notebook.progress_bar import BarProgress
from qtoolkit.records import ProgressEvent


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def layers(done: int, total: int = 30, detail: str = "") -> ProgressEvent:
    return ProgressEvent("quantize", done, total, "layers", detail)


def live_widgets() -> dict[str, Widget]:
    """All widgets that the kernel knows; ipywidgets 7 keeps them elsewhere."""
    return dict(widget_module._instances if hasattr(widget_module, "_instances") else Widget.widgets)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, shell: Any) -> list[dict[str, Any]]:
    """What reaches the page, oldest first: data and whether it replaces what was there."""
    messages: list[dict[str, Any]] = []

    def publish(
        data: dict[str, Any], metadata: Any = None, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        messages.append({"data": data, "id": (transient or {}).get("display_id"), "update": update})

    monkeypatch.setattr(shell.display_pub, "publish", publish)
    return messages


def test_a_line_says_phase_count_elapsed_and_remaining(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = TextProgress("nf4 of m", clock)
    clock.now += 2
    progress(ProgressEvent("load", 0, 2_000_000, "bytes"))
    clock.now += 1
    progress(layers(0))
    clock.now += 4
    progress(layers(6, detail="model.layers.6"))
    assert capsys.readouterr().out.splitlines() == [
        "load: 0 bytes of 2.0 MB (0 %), 2.0 s elapsed",
        "quantize: 0 of 30 layers (0 %), 3.0 s elapsed",
        # 6 layers took 4 s, so 24 take 16 s.
        "quantize: 6 of 30 layers (20 %), 7.0 s elapsed, about 16.0 s left in this phase, model.layers.6",
    ]


def test_text_is_at_most_a_line_every_tenth_also_when_phases_alternate(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress("nf4 of m")
    for done in range(1001):
        progress(layers(done, 1000))
        progress(ProgressEvent("load", done, 1000, "bytes"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert [line.split("(")[1].split(" ")[0] for line in lines if line.startswith("load")] == [
        str(percent) for percent in range(0, 101, 10)
    ]


def test_an_unknown_total_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TextProgress("nf4 of m")
    for done in range(5):
        progress(layers(done, 0))
    out = capsys.readouterr().out
    assert out.startswith("quantize: 0 layers, ")
    assert out.count("\n") == 1


def test_none_says_nothing(capsys: pytest.CaptureFixture[str], published: list[Any]) -> None:
    with open_progress("none", SimpleNamespace(kernel=object()), "t") as progress:
        progress(layers(1))
    assert capsys.readouterr().out == ""
    assert published == []


@pytest.mark.parametrize(
    ("choice", "kernel", "kind"),
    [
        ("auto", object(), BarProgress),
        ("auto", None, TextProgress),
        ("widget", None, BarProgress),
        ("text", object(), TextProgress),
        ("none", object(), NoProgress),
    ],
)
def test_the_choice(choice: str, kernel: Any, kind: type[Progress]) -> None:
    assert type(open_progress(choice, SimpleNamespace(kernel=kernel), "t")) is kind


def test_without_ipywidgets_there_is_text_and_a_bar_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtoolkit.notebook.progress.importlib.util.find_spec", lambda name: None)
    shell = SimpleNamespace(kernel=object())
    assert type(open_progress("auto", shell, "t")) is TextProgress
    with pytest.raises(MissingDependencyError, match=r"pip install ipywidgets.*'text'"):
        open_progress("widget", shell, "t")


def test_the_bar_and_its_text_say_the_same() -> None:
    clock = Clock()
    progress = BarProgress("nf4 of m", clock)
    assert "nf4 of m: starting" in progress.text.value
    clock.now += 5
    progress(layers(15, detail="<b>&"))
    assert (progress.bar.min, progress.bar.value, progress.bar.max) == (0, 0.5, 1)
    assert "quantize: 15 of 30 layers (50 %), 5.0 s elapsed, &lt;b&gt;&amp;" in progress.text.value
    assert 'role="status" aria-live="polite"' in progress.text.value


def test_the_bar_moves_at_most_ten_times_a_second() -> None:
    clock = Clock()
    progress = BarProgress("nf4 of m", clock)
    changes: list[float] = []
    progress.bar.observe(lambda change: changes.append(clock.now), names="value")
    for done in range(1, 1001):
        clock.now += 0.003
        progress(layers(done, 1000))
    assert 25 <= len(changes) <= 31
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(changes))


@pytest.mark.parametrize(
    ("error", "end"),
    [(None, "done"), (KeyboardInterrupt(), "stopped"), (RuntimeError(), "failed")],
    ids=["done", "stopped", "failed"],
)
def test_at_the_end_text_takes_the_bars_place_and_no_widget_stays(
    published: list[dict[str, Any]], error: BaseException | None, end: str
) -> None:
    before = live_widgets()
    clock = Clock()
    try:
        with BarProgress("nf4 of <m>", clock) as progress:
            progress(layers(15))
            clock.now += 75
            if error:
                raise error
    except (KeyboardInterrupt, RuntimeError):
        pass
    assert live_widgets() == before
    shown, replaced = published
    assert shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"] is not None
    assert replaced == {
        "data": {
            "text/plain": f"nf4 of <m>: {end} after 1 min 15 s",
            "text/html": f'<div role="status">nf4 of &lt;m&gt;: {end} after 1 min 15 s</div>',
        },
        "id": shown["id"],
        "update": True,
    }


def test_the_users_own_widgets_stay_open(published: list[dict[str, Any]]) -> None:
    from ipywidgets import IntText

    own = IntText()
    with BarProgress("t"):
        pass
    assert own in live_widgets().values()
    own.close()


def test_the_text_front_end_does_not_load_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("ipywidgets", "qtoolkit.notebook.progress_bar"))]:
        monkeypatch.delitem(sys.modules, name)
    open_progress("text", SimpleNamespace(kernel=object()), "t")
    assert "ipywidgets" not in sys.modules
