"""The token shows up nowhere but at the Hub: all that a session with pushes and failures leaves behind is searched."""

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import Widget

import qtoolkit as qt
from qtoolkit.notebook.progress_bar import BarProgress
from qtoolkit.publishing import push
from qtoolkit.publishing.push import Repository
from qtoolkit.publishing.token import Writer, find_writer
from qtoolkit.records import Record, ignore_progress
from tests.fake_hub.fixture import writable_hub
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub

__all__ = ["writable_hub"]

# Not the test Hub's usual one, and found in no other text.
TOKEN = "hf_" + "Tq7" * 12
REPO = "me/tiny"


@dataclass
class Session:
    """A shell in which cells run, and all that they leave behind.

    Attributes:
        shell: it.
        traces: what was shown, raised or logged, as text.
    """

    shell: InteractiveShell
    traces: list[str] = field(default_factory=list)

    def run(self, cell: str) -> Any:
        """Run a cell; its result, or the error that ended it."""
        done = self.shell.run_cell(cell, store_history=True)
        error = done.error_before_exec or done.error_in_exec
        self.keep(error or done.result)
        return error or done.result

    def keep(self, item: Any) -> None:
        """Keep every text that an object or an error is shown as."""
        self.traces += [str(item), repr(item)]
        if isinstance(item, BaseException):
            self.traces += traceback.format_exception(item)
        if isinstance(item, Record):
            self.traces += [json.dumps(item.to_dict()), item._repr_html_()]
        data, metadata = self.shell.display_formatter.format(item)
        self.traces += [str(data), str(metadata)]


@pytest.fixture
def session(
    shell: InteractiveShell,
    writable_hub: WritableHub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Session]:
    """A session with the token at hand to the Hub, everything logged, and a bar whose every state is kept."""
    # Thousands that other tests have left, each of which every state of this session's bar would hold.
    Widget.close_all()
    writable_hub.tokens.add(TOKEN)
    writable_hub.writers[TOKEN] = "me"
    monkeypatch.setattr(push, "PAUSES", (0.0,))
    session, show = Session(shell), BarProgress.__call__

    def kept(self: BarProgress, event: Any) -> None:
        show(self, event)
        session.traces.append(str(Widget.get_manager_state()))

    monkeypatch.setattr(BarProgress, "__call__", kept)
    shell.run_line_magic("config", "QuantizeMagics.progress = 'widget'")
    with caplog.at_level(logging.DEBUG):
        yield session


def refuse_traces(session: Session, folders: list[Path], caplog: Any, capfd: Any, *, but: Path | None = None) -> None:
    """Search what a session left: texts, outputs, logs, variables and files."""
    texts = [*session.traces, *capfd.readouterr(), caplog.text, *map(str, caplog.records)]
    texts += [str(session.shell.user_ns), str(Widget.get_manager_state())]
    assert [text[:200] for text in texts if TOKEN in text] == []
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file() and file != but]
    assert files
    assert [file for file in files if TOKEN.encode() in file.read_bytes()] == []


@pytest.mark.slow
def test_a_session_that_pushes(
    session: Session, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first time with the token of the environment, then with the one in the file of `hf auth login`."""
    out, method = tmp_path / "out", "--method absmax --device cpu"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    report = session.run(f"r = %quantize {tiny_llama} {method} --output {out} --push {REPO} --license mit\nr")
    assert type(report).__name__ == "QuantizationReport"
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)
    publication = session.run(f"p = %qpublish {out} {REPO} --license mit\np")
    assert set(publication.unchanged) == set(publication.files)
    # The session was real: this is the token that wrote.
    assert {request.token for request in writable_hub.requests if request.method == "POST"} == {TOKEN, None}
    uploaded = [content for commit in writable_hub.repositories[REPO].commits.values() for content in commit.values()]
    assert [content[:200] for content in uploaded if TOKEN.encode() in content] == []
    assert TOKEN not in str(writable_hub.commits)
    assert any("push" in trace for trace in session.traces)
    refuse_traces(session, [tmp_path], caplog, capfd, but=tmp_path / "token")


def unknown_token(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens.clear()


def reading_token(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.writers.clear()


def forbidden(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.append(Fault("/whoami|/repos/create", status=403))


def broken(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.append(Fault("/whoami|/repos/create", status=500))


def nobody(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


def malformed(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\u00e9 twice")


FAILURES = {
    "401": unknown_token,
    "read only": reading_token,
    "403": forbidden,
    "500": broken,
    "connection refused": nobody,
    "malformed": malformed,
}


# What each writes in a line is tested in tests/publishing; the whole traceback could show more.
FEW = ("401", "connection refused", "malformed")
SESSIONS = [
    pytest.param(
        fail, debug, id=f"{name}-{kind}", marks=[] if (debug and name in FEW) or name == "500" else pytest.mark.long
    )
    for name, fail in FAILURES.items()
    for debug, kind in {"": "one line", " --debug": "whole traceback"}.items()
]


@pytest.mark.parametrize(("fail", "debug"), SESSIONS)
def test_a_session_that_fails(
    session: Session, saved: Path, writable_hub: WritableHub, tmp_path: Path, fail: Callable[..., None], debug: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fail(writable_hub, monkeypatch)
    for cell in (
        f"%qpublish {saved} {REPO} --license mit{debug}",
        f"%quantize {saved} --method absmax --output out --push {REPO} --license mit{debug}",
        f"import qtoolkit as qt, os\nqt.publish(r'{saved}', '{REPO}', license='mit', token=os.environ['HF_TOKEN'])",
    ):
        assert isinstance(session.run(cell), qt.QToolkitError), cell
    if fail in (forbidden, broken, nobody):
        # The step after the token was found good.
        with pytest.raises(qt.QToolkitError) as caught:
            Repository(REPO, Writer(TOKEN, "me"), "main", ignore_progress).open(private=True, create_pr=False)
        session.keep(caught.value)
    # `os.environ` has it, and every cell's own text.
    session.shell.user_ns.pop("os", None)
    refuse_traces(session, [tmp_path, saved], caplog, capfd)


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    qt.quantize(tiny_llama, "absmax", device="cpu", output=folder)
    return folder


def test_what_is_searched_would_show_it(session: Session, caplog: Any, capfd: Any, tmp_path: Path) -> None:
    """The search itself: a token in any of the places is found."""
    places: dict[str, Callable[[], object]] = {
        "output": lambda: session.run(f"print('{TOKEN[:9]}' + '{TOKEN[9:]}')"),
        "log": lambda: logging.getLogger("qtoolkit.anything").debug("with %s", TOKEN),
        "error": lambda: session.run(f"raise ValueError('{TOKEN[:9]}' + '{TOKEN[9:]}')"),
        "result": lambda: session.run(f"'{TOKEN[:9]}' + '{TOKEN[9:]}'"),
        "file": lambda: (tmp_path / "work" / "x.json").write_text(TOKEN),
    }
    (tmp_path / "work" / "any").write_text("any")
    for place, leave in places.items():
        session.traces.clear()
        caplog.clear()
        session.shell.reset()
        leave()
        with pytest.raises(AssertionError):
            refuse_traces(session, [tmp_path], caplog, capfd)
        assert place


def test_the_writer_shows_no_token(writable_hub: WritableHub) -> None:
    writable_hub.tokens.add(TOKEN)
    writable_hub.writers[TOKEN] = "me"
    assert TOKEN not in f"{find_writer(REPO, TOKEN)!r} {find_writer(REPO, TOKEN)}"
