"""Pages that are made from code are as the code is, and the site has all of them; `make docs` builds it."""

import re
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.readers.programs import PROGRAMS
from scripts import docs_reference, external_links
from scripts.store_docs import CODE, ROOT, source_of, with_made_parts

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_made_parts_are_as_the_code_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert with_made_parts(text) == text, "run `python -m scripts.store_docs`"


def test_the_page_of_plugins_has_each_tested_plugin() -> None:
    shown = {match["file"] for match in CODE.finditer((ROOT / "docs/plugins.md").read_text(encoding="utf-8"))}
    assert shown == {f"tests/outside/{file.name}" for file in (ROOT / "tests/outside").glob("outside_*.py")}


def test_names_of_a_file_are_taken_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("import os\n\nA, B = 1, 2\n\n\n@cached\ndef f():\n    return os\n\n\nclass C: ...\n")
    assert source_of(file, {"f", "B"}) == "A, B = 1, 2\n\n\n@cached\ndef f():\n    return os\n"
    assert source_of(file, {"imports", "B"}) == "import os\n\n\nA, B = 1, 2\n"
    with pytest.raises(LookupError, match="defines no D"):
        source_of(file, {"C", "D"})


def test_addresses_are_all_listed() -> None:
    stored = external_links.PAGE.read_text(encoding="utf-8")
    assert external_links.page(external_links.days(stored)) == stored, "run `python -m scripts.external_links`"


def test_a_day_is_kept_until_an_address_answers_again() -> None:
    (first, second, *_) = external_links.named()
    listed = external_links.page({first: "2026-01-02", second: "2026-01-02"}, asked=[second])
    days = external_links.days(listed)
    assert days[first] == "2026-01-02" and days[second] > "2026-01-02"


def test_every_page_and_lesson_is_in_the_sites_menu() -> None:
    menu = set(re.findall(r"^ +- (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    lessons = {f"notebooks/{file.name}" for file in (ROOT / "notebooks").glob("[0-9]*.ipynb")}
    assert menu == {page.name for page in PAGES} | lessons | {"reference.md"}


def test_the_gallery_is_light() -> None:
    pictures = re.findall(r"!\[[^]]{30,}\]\((\S+)\)", (ROOT / "docs/gallery.md").read_text("utf-8"))
    assert len(pictures) >= 5
    assert sum((ROOT / "docs" / picture).stat().st_size for picture in pictures) <= 300_000


def test_serving_names_each_program_of_the_contract_and_its_command() -> None:
    serving = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| program .*?\n\n", serving, re.MULTILINE | re.DOTALL)
    shown = [program for program in PROGRAMS if not program.is_rare and program.name != "qtoolkit"]
    for program in shown:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {program.title} ")]
        assert program.version in row or program.name == "llama.cpp"
        assert program.title in re.findall("^## (.*)$", serving, re.MULTILINE) or program.name == "mlx-lm"
        start = program.line.partition("{")[0]
        assert start in serving or program.name == "mlx-lm"


def test_the_reference_has_all_public_names_and_options() -> None:
    page = docs_reference.reference()
    assert sorted(re.findall(r"^### qt\.(\w+)$", page, re.MULTILINE)) == sorted(qt.__all__)
    assert "    overwrite=False," in page and "| `group_size` | `128` |" in page


def test_sections_of_a_docstring_become_lists() -> None:
    arguments = "Args:\n    model, other: a folder,\n        or: a file.\n    **more: b.\n\n"
    doc = f"Load it.\n\n{arguments}Returns:\n    One\n    line.\n"
    made = docs_reference.with_sections(doc)
    assert made.split("\n\n")[1:3] == ["**Args**", "- `model, other`: a folder, or: a file.\n- `**more`: b."]
    assert made.endswith("**Returns**\n\nOne line.\n\n")
