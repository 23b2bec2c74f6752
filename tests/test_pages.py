"""Pages that are made from code are as the code is."""

from pathlib import Path

import pytest

from scripts.store_docs import CODE, ROOT, source_of, with_made_parts

pytestmark = pytest.mark.once

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
    with pytest.raises(LookupError, match="defines no D"):
        source_of(file, {"C", "D"})
