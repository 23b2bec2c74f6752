"""Tracebacks that show every variable show no token: `%xmode Verbose`, `%tb Verbose`, `--debug`, magics and Python."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
from qtoolkit.notebook.panels.verb_call import VerbCall
from qtoolkit.publishing import push
from tests.fake_hub.fixture import WRITE_TOKEN, writable_hub
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub

__all__ = ["writable_hub"]

# In no text of a cell.
TOKEN = "hf_" + "Vb5" * 12
# Not as the Hub's own look.
ODD_TOKEN = "company.gateway.key.0815"  # noqa: S105
REPO = "me/tiny"

READING = (
    "qt.load('org/model', **token)",
    "qt.plan('org/model', 'nf4', **token)",
    "qt.recommend('org/model', **token)",
    "qt.quantize('org/model', 'absmax', device='cpu', **token)",
    "qt.quantize('tiny', 'gptq', output='out', resume_repo='me/journal', device='cpu', **token)",
    "qt.evaluate('org/model', device='cpu', **token)",
    "qt.compare('org/model', ['absmax'], device='cpu', **token)",
    "%quantize org/model --method absmax --debug",
    "%qplan org/model --debug",
    "%qeval org/model --debug",
    "%quantize org/model --method absmax",
)
WRITING = (
    "qt.publish('saved', 'me/tiny', license='mit', **token)",
    "%qpublish saved me/tiny --license mit --debug",
    "%qpublish saved me/tiny --license mit",
    "%quantize org/model --method absmax --output out --push me/tiny --license mit --debug",
)


def unknown_token(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens.clear()


def forbidden(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.append(Fault("/api/(models|repos|whoami)", status=403))


def broken(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.faults.append(Fault("/api/(models|repos|whoami)", status=500))


def echoing(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-Error-Message": f"the token {next(iter(hub.tokens - {WRITE_TOKEN}))} may not"}
    hub.faults.append(Fault("/api/(models|repos|whoami)", status=418, headers=headers))


def nobody(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


FAILURES = {"401": unknown_token, "403": forbidden, "500": broken, "echo": echoing, "connection refused": nobody}


@pytest.fixture
def verbose(
    shell: InteractiveShell,
    writable_hub: WritableHub,
    tiny_llama: Path,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Callable[[str], str]]:
    """Run a cell that fails, with every variable shown at once and shown again afterwards; all that is seen."""
    writable_hub.add("org/model", tiny_llama)
    monkeypatch.setattr(push, "PAUSES", (0.0,))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    Path("saved").symlink_to(saved)
    Path("tiny").symlink_to(tiny_llama)
    shell.run_cell("import qtoolkit as qt\nfrom pathlib import Path")

    def run(cell: str) -> str:
        shell.run_line_magic("xmode", "Verbose")
        capfd.readouterr()
        done = shell.run_cell(cell)
        assert isinstance(done.error_in_exec, qt.QToolkitError), cell
        shell.run_line_magic("xmode", "Context")
        shell.run_line_magic("tb", "Verbose")
        return "".join(capfd.readouterr())

    yield run
    shell.run_line_magic("xmode", "Context")


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    qt.quantize(tiny_llama, "absmax", device="cpu", output=folder)
    return folder


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=FAILURES)
def test_the_token_that_huggingface_hub_finds(
    verbose: Callable[[str], str], writable_hub: WritableHub, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell with one of the failures, and each failure with three cells."""
    writable_hub.tokens.add(TOKEN)
    writable_hub.writers[TOKEN] = "me"
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    list(FAILURES.values())[number](writable_hub, monkeypatch)
    for cell in (*READING, *WRITING)[number :: len(FAILURES)]:
        refuse_tokens(verbose(cell.replace(", **token", "")), cell)


@pytest.mark.parametrize(
    ("fail", "token"),
    [(unknown_token, TOKEN), (echoing, TOKEN), (echoing, ODD_TOKEN)],
    ids=["401", "echo", "echo of a token that looks otherwise"],
)
def test_the_token_that_is_given(
    verbose: Callable[[str], str],
    writable_hub: WritableHub,
    fail: Callable[..., None],
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writable_hub.tokens.add(token)
    writable_hub.writers[token] = "me"
    fail(writable_hub, monkeypatch)
    Path("secret").write_text(token)
    for cell in (*(READING[2:7] if fail is unknown_token else READING[:2]), WRITING[0]):
        refuse_tokens(verbose(cell.replace("**token", "token=Path('secret').read_text()")), cell)


@pytest.mark.parametrize(
    "cell",
    [
        "qt.plan(Path('secret').read_text(), 'nf4')",
        "qt.quantize('org/model@' + Path('secret').read_text(), 'absmax', device='cpu')",
        "qt.quantize(Path('secret').read_text(), 'absmax', output='out', device='cpu')",
        "qt.quantize('tiny', 'gptq', output='out', resume_repo=Path('secret').read_text(), device='cpu')",
        "qt.quantize('tiny', Path('secret').read_text(), device='cpu')",
        "qt.load('/nowhere/' + Path('secret').read_text())",
        "qt.load('org/model', revision=Path('secret').read_text())",
        "qt.load('a b' + Path('secret').read_text())",
        "qt.evaluate('tiny', text=Path('secret').read_text())",
        "qt.find_models(Path('secret').read_text())",
        "qt.recommend([Path('secret').read_text()])",
        "qt.publish('saved', Path('secret').read_text(), license='mit')",
        "qt.publish('saved', 'me/' + Path('secret').read_text(), license='mit', dry_run=True)",
        "qt.publish('saved', 'me/tiny', license=Path('secret').read_text())",
    ],
)
def test_a_token_where_a_name_belongs(verbose: Callable[[str], str], writable_hub: WritableHub, cell: str) -> None:
    Path("secret").write_text(TOKEN)
    refuse_tokens(verbose(cell), cell)
    assert [request.path for request in writable_hub.requests if TOKEN in request.path] == []


@pytest.mark.parametrize("magic", ["%quantize {} --method absmax", "%qplan {}", "%qeval {}", "%qpublish saved {}"])
def test_a_token_on_a_line(
    shell: InteractiveShell, saved: Path, writable_hub: WritableHub, magic: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("saved").symlink_to(saved)
    for progress in ("text", "widget"):
        shell.run_line_magic("config", f"QuantizeMagics.progress = {progress!r}")
        done = shell.run_cell(magic.format(TOKEN))
        assert isinstance(done.error_in_exec, qt.QToolkitError)
        refuse_tokens("".join(capfd.readouterr()) + str(done.error_in_exec), magic)
    assert [request.path for request in writable_hub.requests if TOKEN in request.path] == []


def test_the_call_that_a_panel_shows() -> None:
    assert str(VerbCall("plan", (TOKEN, "nf4"))) == "qt.plan('hf_…', 'nf4')"


def test_an_error_that_was_being_handled_stays_as_it_is(
    shell: InteractiveShell, capfd: pytest.CaptureFixture[str]
) -> None:
    shell.run_line_magic("xmode", "Verbose")
    shell.run_cell(
        "import qtoolkit as qt\n"
        "def mine():\n    number = 4711\n    raise ValueError(number)\n"
        "try:\n    mine()\nexcept ValueError:\n    qt.load('/nowhere')"
    )
    shell.run_line_magic("xmode", "Context")
    shown = capfd.readouterr().out
    assert re.search(r"number\S* = \S*4711", shown) or "number = 4711" in plain(shown)
    assert "ModelNotFoundError" in shown


def test_a_persons_own_variables_are_shown(shell: InteractiveShell, capfd: pytest.CaptureFixture[str]) -> None:
    """What is searched above would show a token."""
    shell.run_line_magic("xmode", "Verbose")
    Path("secret").write_text(TOKEN)
    shell.run_cell(
        "from pathlib import Path\n"
        "def mine():\n    own = Path('secret').read_text()\n    raise ValueError(len(own))\nmine()"
    )
    shell.run_line_magic("xmode", "Context")
    assert TOKEN in capfd.readouterr().out


def plain(text: str) -> str:
    """A text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def refuse_tokens(shown: str, cell: str) -> None:
    assert "Error" in shown, cell
    seen = [line for line in plain(shown).splitlines() if TOKEN[:20] in line or ODD_TOKEN in line]
    assert seen == [], f"{cell}: {seen[:3]}"
