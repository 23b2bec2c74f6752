"""What README.md tells to type works: each block is run here, as this checkout and with a test Hub."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement
from traitlets.config import Config

from qtoolkit.notebook.lines import MAGICS, read_line
from scripts.store_address import address
from tests.fake_hub.server import Hub

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "coverage.md"]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(((?!https?:)[^)#]+)(#[^)]*)?\)")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and text."""
    return [(match[2], match[3]) for match in BLOCK.finditer(text)]


@pytest.mark.once
def test_the_first_page_is_short_and_shows_a_picture_first() -> None:
    lines = README.splitlines()
    assert len(lines) <= 120
    (picture,) = [number for number, line in enumerate(lines[:8]) if line.startswith("![")]
    assert (ROOT / LINK.findall(lines[picture])[0][0]).exists()
    assert len(lines[picture].partition("]")[0]) > 60, "its text says what is to be seen"


@pytest.mark.once
@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.once
def test_every_page_is_listed() -> None:
    listed = {target for target, _ in LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} == listed


@pytest.mark.once
def test_commands_exist() -> None:
    commands = [line[2:] for kind, text in blocks(README) if kind == "console" for line in text.splitlines()]
    assert commands
    for command in commands:
        program, target, *_ = command.split()
        assert program == "make"
        subprocess.run(
            [shutil.which("make") or "make", "--dry-run", "--silent", target], cwd=ROOT, check=True, capture_output=True
        )


@pytest.mark.once
def test_the_install_line_installs_this_package_by_its_address() -> None:
    (line,) = re.findall(r'^%pip install -q "(.*)"$', README, re.MULTILINE)
    asked = Requirement(line)
    assert asked.name == PYPROJECT["name"] == "qtoolkit-notebook"
    assert asked.extras <= PYPROJECT["optional-dependencies"].keys()
    assert asked.url == f"git+{address()}"


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_and_code_of_the_pages_can_be_read(page: Path) -> None:
    for kind, text in blocks(page.read_text(encoding="utf-8")):
        if kind == "python":
            ast.parse(text)
        for magic, line in re.findall(rf"^%({'|'.join(MAGICS)}) (.*)$", text, re.MULTILINE):
            read_line(magic, line.partition("  #")[0])


def test_blocks_run_from_top_to_bottom(
    tiny_llama: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(MODEL, {file.name: file.read_bytes() for file in tiny_llama.iterdir()})
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        for kind, text in blocks(README):
            if kind == "console":
                continue
            # The package is installed already; the text that models are measured on is not, and no Hub is at hand.
            code = re.sub("^%pip .*$", "", text, flags=re.MULTILINE)
            code = code.replace(
                f"--base {MODEL}", f"--base {MODEL} --text book.txt --seq-len 32 --num-tokens 64 --no-speed"
            )
            (tmp_path / "book.txt").write_text("A text of some length, to measure on. " * 100)
            result = shell.run_cell(code)
            assert result.success, code
        assert "times smaller" in capsys.readouterr().out
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
