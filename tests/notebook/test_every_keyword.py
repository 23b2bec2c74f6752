"""Every keyword of a verb is an option of its magic and a field of its panel, or in a table that says why not."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.lines import MAGICS, read_line
from qtoolkit.notebook.options import NOT_IN_A_PANEL, ONLY_IN_PYTHON
from qtoolkit.notebook.panels.field import Field
from tests.notebook.conftest import shell
from tests.notebook.panels.conftest import open_panel

__all__ = ["open_panel", "shell"]
VERBS: dict[str, Callable[..., Any]] = {
    "quantize": qt.quantize,
    "qplan": qt.plan,
    "qcompare": qt.compare,
    "qfrontier": qt.frontier,
    "qeval": qt.evaluate,
    "qconvert": qt.convert,
    "qmerge": qt.merge,
    "qrepair": qt.repair,
    "qverify": qt.verify,
    "qpublish": qt.publish,
}
PANELS: dict[str, Callable[..., Any]] = {
    "quantize": qt.quantize,
    "plan": qt.plan,
    "compare": qt.compare,
    "convert": qt.convert,
    "publish": qt.publish,
}
# Keyword -> the field that says it in another way.
OTHER_FIELDS = {
    "device": "Device, among the method's",
    "private": "Public: everybody may see it",
    "dry_run": "a button",
}


def keywords_of(verb: Callable[..., Any]) -> set[str]:
    return {name for name, one in inspect.signature(verb).parameters.items() if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("magic", VERBS)
def test_every_keyword_is_an_option(magic: str) -> None:
    options = {option.name for option in MAGICS[magic].options}
    assert keywords_of(VERBS[magic]) - ONLY_IN_PYTHON.keys() - options == set()
    assert not options & ONLY_IN_PYTHON.keys()


@pytest.mark.parametrize("name", PANELS)
def test_every_keyword_is_a_field(open_panel: Any, name: str) -> None:
    shown = vars(getattr(open_panel(only=name), name)).values()
    fields = {field.keyword for field in shown if isinstance(field, Field)}
    reasons = ONLY_IN_PYTHON | NOT_IN_A_PANEL | OTHER_FIELDS
    assert keywords_of(PANELS[name]) - fields - reasons.keys() == set()
    assert not fields & ONLY_IN_PYTHON.keys()


def test_no_reason_outlives_its_keyword() -> None:
    keywords = set().union(*map(keywords_of, [*VERBS.values(), *PANELS.values()]))
    assert ONLY_IN_PYTHON.keys() | NOT_IN_A_PANEL.keys() <= keywords


@pytest.mark.parametrize(("line", "resume"), [("m", True), ("m --resume", True), ("m --no-resume", False)])
def test_a_line_says_whether_to_go_on(line: str, *, resume: bool) -> None:
    assert read_line("quantize", line).options.get("resume", True) is resume
    assert read_line("qcompare", f"{line} --base").options.get("resume", True) is resume


def test_options_reach_their_verbs() -> None:
    assert read_line("quantize", "m --output o --resume-repo org/r").options["resume_repo"] == "org/r"
    assert read_line("qplan", "m --batch-size 3").options["batch_size"] == 3
    options = read_line("qcompare", "m --base --retries 0 --noise-floor").options
    assert (options["retries"], options["noise_floor"]) == (0, True)


@pytest.mark.parametrize("line", ["m --no-resume", "m --resume-repo org/r", "m --batch-size 0", "m --batch-size x"])
def test_a_plan_refuses_what_is_the_jobs(line: str) -> None:
    with pytest.raises(ConfigError, match=r"not for a plan|number of sequences"):
        read_line("qplan", line)
