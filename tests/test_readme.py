"""README.md and the pages: short, with links that lead somewhere; tests/api/test_readme_blocks.py runs its blocks."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from qtoolkit.notebook.lines import MAGICS, read_line
from scripts.store_address import address

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "coverage.md"]
# A block below `<!-- not run: REASON -->` is not run by tests, and one below `<!-- code: FILE -->` is made from code.
BLOCK = re.compile(r"^(<!-- (?:not run|code): \S[^\n]* -->\n)?( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(((?!https?:)[^)#]+)(#[^)]*)?\)")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page that carry no mark: language and text."""
    return [(match[3], match[4]) for match in BLOCK.finditer(text) if not match[1]]


def test_the_first_page_is_short_and_shows_a_picture_first() -> None:
    lines = README.splitlines()
    assert len(lines) <= 120
    (picture,) = [number for number, line in enumerate(lines[:8]) if line.startswith("![")]
    assert (ROOT / LINK.findall(lines[picture])[0][0]).exists()
    assert len(lines[picture].partition("]")[0]) > 60, "its text says what is to be seen"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_listed() -> None:
    listed = {target for target, _ in LINK.findall((ROOT / "docs/index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} == listed


def test_commands_exist() -> None:
    commands = [line[2:] for kind, text in blocks(README) if kind == "console" for line in text.splitlines()]
    assert commands
    for command in commands:
        program, target, *_ = command.split()
        assert program == "make"
        subprocess.run(
            [shutil.which("make") or "make", "--dry-run", "--silent", target], cwd=ROOT, check=True, capture_output=True
        )


def test_the_install_line_installs_this_package_by_its_address() -> None:
    (line,) = re.findall(r'^%pip install -q "(.*)"$', README, re.MULTILINE)
    asked = Requirement(line)
    assert asked.name == PYPROJECT["name"] == "qtoolkit-notebook"
    assert asked.extras <= PYPROJECT["optional-dependencies"].keys()
    assert asked.url == f"git+{address()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_and_code_of_the_pages_can_be_read(page: Path) -> None:
    whole = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(whole):
        if match[3] == "python":
            ast.parse(match[4])
    for _, text in blocks(whole):
        for magic, line in re.findall(rf"^%({'|'.join(MAGICS)}) (.*)$", text, re.MULTILINE):
            read_line(magic, line.partition("  #")[0])


def test_every_magic_is_in_the_table() -> None:
    page = (ROOT / "docs/in-a-notebook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `%(\w+)", page, re.MULTILINE)) == {*MAGICS, "qmemory", "qdoctor"}
