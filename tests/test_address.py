"""The repository's address stands once, in pyproject.toml; the pages that name it are made from it."""

from pathlib import Path

import pytest

from scripts.store_address import NAMED, PAGES, ROOT, address, with_address

pytestmark = pytest.mark.once


def test_pages_have_the_address_of_pyproject() -> None:
    pages = [page for pattern in PAGES for page in ROOT.glob(pattern)]
    stale = [page.name for page in pages if with_address(text := page.read_text(encoding="utf-8"), address()) != text]
    assert stale == [], "run `make address`"
    assert address() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_changed_wherever_a_page_names_it() -> None:
    text = "git+https://github.com/OWNER/qtoolkit@v1 https://colab.research.google.com/github/x-y/qtoolkit/blob/main/a"
    changed = "git+https://github.com/me/tools@v1 https://colab.research.google.com/github/me/tools/blob/main/a"
    assert with_address(text, "https://github.com/me/tools") == changed


def test_nothing_else_names_it() -> None:
    known = {page for pattern in PAGES for page in ROOT.glob(pattern)} | {ROOT / "pyproject.toml"}
    known |= {Path(__file__), ROOT / "scripts/store_address.py"}
    folders = ("qtoolkit", "tests", "scripts", "examples", "benchmarks", "interop", "constraints", "docs", "notebooks")
    files = [*ROOT.glob("*"), *(file for name in folders for file in (ROOT / name).rglob("*"))]
    texts = [file for file in files if file.suffix in (".py", ".md", ".toml", ".yml", ".txt", ".ipynb", "")]
    read = [file for file in texts if file.is_file() and not {"output", "data"}.intersection(file.parts)]
    assert {file for file in read if NAMED.search(file.read_text(encoding="utf-8", errors="replace"))} <= known
