"""The panel Publish: checks one by one, the card before it is sent, and a push to the test Hub; no token anywhere."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
from qtoolkit.notebook.panels import Panel, progress_view
from qtoolkit.notebook.panels.publish_panel import PublishPanel, checks_html
from qtoolkit.notebook.panels.verb_call import call_html
from qtoolkit.records import NONE_RUN, NOT_COMPARED, Check, Publication, Verification
from tests.fake_hub.fixture import WRITE_TOKEN, writable_hub
from tests.fake_hub.writable import WritableHub
from tests.notebook.panels.conftest import told

__all__ = ["writable_hub"]
Open = Callable[..., Panel]
REPO = "me/tiny"


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was saved."""
    folder = tmp_path_factory.mktemp("saved") / "tiny-absmax"
    qt.quantize(tiny_llama, qt.AbsMax(), device="cpu", output=folder)
    return folder


@pytest.fixture
def publish(open_panel: Open, saved: Path) -> PublishPanel:
    """The panel with its fields filled in."""
    panel: PublishPanel = open_panel(only="publish").publish
    panel.folder.value, panel.repo_id.value, panel.license.value = str(saved), REPO, "apache-2.0"
    return panel


def press(part: PublishPanel, label: str) -> Any:
    part.runner.actions[label].press()
    assert part.runner.actions[label].problem == ""
    part.runner._worker.wait(300)
    return part.runner._results.records.get("verify" if label == "Verify" else "publish")


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        (Check("base", True, f"b; {NOT_COMPARED}"), f"○ base: agrees (b; {NOT_COMPARED})"),
        (Check("loads", True, "in x", NONE_RUN), f"○ loads: expected (in x; {NONE_RUN})"),
        (Check("loads", False, "in x", NONE_RUN), f"✖ loads: FAILED (in x; {NONE_RUN})"),
        (Check("loads", None, "in x", NONE_RUN), f"? loads: not checked (in x; {NONE_RUN})"),
        (Check("hashes", True, "7 files"), "✔ hashes: passed (7 files)"),
    ],
    ids=["names agree", "by a table", "failed", "not made", "done"],
)
def test_what_was_not_tried_has_a_mark_of_its_own(check: Check, shown: str) -> None:
    assert f">{shown}</li>" in checks_html([check])


@pytest.mark.slow
def test_checks_are_shown_as_they_are_made(publish: PublishPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    # All is over within the second after which progress is drawn.
    monkeypatch.setattr(progress_view, "INTERVAL", 0.1)
    shown: list[int] = []
    publish.checks.observe(lambda change: shown.append(change["new"].count("<li>")), names="value")
    verification = press(publish, "Verify")
    assert isinstance(verification, Verification) and verification.passed
    # Those of files come at once, those of the model when it has run.
    counts = [count for count in shown if count]
    assert len(counts) >= 2 and counts == sorted(counts) and counts[-1] == len(verification.checks)
    assert "✔ file hashes: passed" in publish.checks.value


def test_what_fails_is_told_by_name(publish: PublishPanel, saved: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "<b>.pt").write_bytes(b"x")
    publish.folder.value = str(folder)
    verification = press(publish, "Verify")
    assert not verification.passed
    assert re.search('✖ [12] of .* FAILED.*</div><ul [^>]*><li class="qtk-failed">✖', publish.checks.value)
    assert "✖ no pickles: FAILED" in publish.checks.value
    assert "&lt;b&gt;.pt" in publish.checks.value and "<b>" not in publish.checks.value
    assert press(publish, "Dry run").startswith("copy is not published, for qt.verify finds")
    # One way of counting, in the sentence and above the list.
    total = publish.checks.value.count("<li")
    assert re.search(f"✖ [12] of {total} checks of copy FAILED", verification.headline())
    assert re.search(f"✖ [12] of {total} checks FAILED", publish.checks.value)
    # What would be refused cannot be pressed, and says why.
    button = publish.runner.actions["Publish"]
    assert (button.control.disabled, button.control.button_style) == (True, "")
    assert "Checks of this folder failed: " in button._beside.value
    publish.folder.value = str(saved)
    assert not button.control.disabled and "Checks of this folder" not in button._beside.value


@pytest.mark.slow
def test_a_dry_run_shows_the_card_and_sends_nothing(publish: PublishPanel, writable_hub: WritableHub) -> None:
    publication = press(publish, "Dry run")
    assert isinstance(publication, Publication) and publication.dry_run
    assert "base_model" in publish.card.value or "license: apache-2.0" in publish.card.value
    assert "would be at" in publish.card.value and "<a " not in publish.card.value
    assert writable_hub.requests == []


def test_it_is_sent_private_and_linked_and_the_token_is_nowhere(
    publish: PublishPanel, writable_hub: WritableHub, tmp_path: Path
) -> None:
    from tests.notebook.test_progress import live_widgets

    (tmp_path / "token").write_text(WRITE_TOKEN)
    publication = press(publish, "Publish")
    assert isinstance(publication, Publication), publication
    assert writable_hub.repositories[REPO].private
    assert f'<a href="{writable_hub.url}/{REPO}">' in publish.card.value
    states = [widget.get_state() for widget in live_widgets().values()]
    assert WRITE_TOKEN not in f"{states} {publish.runner._results._bundle()}"


def test_figures_come_from_a_variable(publish: PublishPanel, saved: Path, shell: InteractiveShell) -> None:
    publish.quality.value = "lost"
    publish.runner.actions["Dry run"].press()
    assert publish.quality.problem == "Figures must name a variable, got 'lost'"
    shell.user_ns["lost"] = "no report"
    assert "quality=lost" in str(publish._call(dry_run=False))
    assert press(publish, "Dry run") is None
    assert "Figures must be what qt.evaluate returns, got str" in told(publish)


def test_without_a_token_it_is_said_how_to_give_one(publish: PublishPanel, writable_hub: WritableHub) -> None:
    assert press(publish, "Publish") is None
    assert "needs a token, and none is there: `hf auth login`" in told(publish)
    assert REPO not in writable_hub.repositories


def test_what_is_ticked_is_in_the_call(publish: PublishPanel, saved: Path) -> None:
    publish.public.value, publish.create_pr.value, publish.revision.value = True, True, "q4"
    options = "license='apache-2.0', revision='q4', create_pr=True, private=False"
    assert str(publish._call(dry_run=False)) == f"qt.publish({str(saved)!r}, 'me/tiny', {options})"


def test_the_call_of_each_button_is_shown(publish: PublishPanel) -> None:
    for call in (publish._verify().call, publish._call(dry_run=True), publish._call(dry_run=False)):
        assert call_html(call) in publish.call.value


def test_it_says_whether_a_token_is_here(open_panel: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    panel = open_panel()
    button = panel.publish.runner.actions["Publish"]
    assert "No token for the Hub is here" in panel.publish.login.value
    # What cannot be done now is not drawn as the next thing to do.
    assert button.control.button_style == "" and "Publish needs a token: see above." in button._beside.value
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    # Turning to it looks again.
    panel.choice.turned_to = "publish"
    assert (button.control.button_style, button._beside.value) == ("primary", "")
    assert "A token for the Hub is here" in panel.publish.login.value and WRITE_TOKEN not in panel.publish.login.value
