"""What comes from elsewhere is text: a name, a licence or an error with markup in it cannot run in the page."""

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ipywidgets import HTML

from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.results import Results
from qtoolkit.records import FoundModel, FoundModels
from tests.notebook.test_progress import live_widgets

ATTACK = "<img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Collects tags and the names of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def pages() -> Iterator[str]:
    """All HTML that is on the page now."""
    for widget in live_widgets().values():
        if isinstance(widget, HTML):
            yield widget.value


def assert_harmless(html: str) -> None:
    found = Tags()
    found.feed(html)
    assert found.tags.isdisjoint({"img", "script", "iframe"}), html
    assert not [name for name in found.attributes if name.startswith("on")], html


def test_a_found_model(open_panel: Callable[..., Panel]) -> None:
    part: Any = open_panel(only="model").model
    part.lookup.wait()
    model = FoundModel(f"org/{ATTACK}", "hub", architecture=ATTACK, license=ATTACK, formats=(ATTACK,), quantized=ATTACK)
    part._show((FoundModels(model.name, (model,), (ATTACK,)), part._choice.model))
    assert "onerror" in part.details.value and "onerror" in part.found._beside.value
    for html in pages():
        assert_harmless(html)


@pytest.mark.parametrize("name", ["model", "plan", "quantize", "compare", "convert", "publish"])
def test_what_is_typed(open_panel: Callable[..., Panel], tmp_path: Path, name: str) -> None:
    panel = open_panel(only=name)
    part: Any = getattr(panel, name)
    names = ("search", "model", "output", "into", "text", "num_tokens", "prompts", "memory", "folder")
    names += ("repo_id", "license", "quality", "revision", "source", "also")
    for field in filter(None, (getattr(part, field, None) for field in names)):
        field.value = ATTACK
    for label, action in (part.runner.actions if hasattr(part, "runner") else {}).items():
        if label != "Cancel":
            action.press()
            panel.worker.wait(60)
    if name in ("model", "plan"):
        part.lookup.wait()
    assert any("onerror" in html for html in pages())
    for html in pages():
        assert_harmless(html)
    assert_harmless(panel.results._bundle()["text/html"])


def test_a_result_that_is_an_error() -> None:
    results = Results()
    results.add("plan", f"qt.plan({ATTACK!r})", f"no such model {ATTACK}")
    assert_harmless(results._bundle()["text/html"])
    assert ATTACK in results._bundle()["text/plain"]


def test_the_check_sees_what_would_run() -> None:
    with pytest.raises(AssertionError):
        assert_harmless(ATTACK)
