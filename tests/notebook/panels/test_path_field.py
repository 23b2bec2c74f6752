"""A field for a path lists what lies there: a picker of files for whoever does not know a name by heart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qtoolkit.notebook.panels import Panel
from qtoolkit.notebook.panels.path_field import path_field

Open = Callable[..., Panel]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with texts, a folder of them, and what is hidden or of another kind."""
    for name in ("my text.txt", "notes.md", "picture.png", ".hidden.txt", "books/one.txt", "books/two.jsonl"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_lists_folders_and_files_of_its_kind_as_one_goes_down(folder: Path) -> None:
    field = path_field("Text", suffixes=(".txt", ".md", ".jsonl"))
    assert field.control.options == ("books/", "my text.txt", "notes.md")
    field.value = "books/"
    assert field.control.options == ("books/one.txt", "books/two.jsonl")
    field.value = f"{folder}/"
    assert f"{folder}/notes.md" in field.control.options


def test_any_other_text_is_taken(folder: Path) -> None:
    field = path_field("Folder")
    assert field.control.options == ("books/",)
    field.value = "org/model"
    assert field.value == "org/model" and field.control.options == () and not field.problem


@pytest.mark.parametrize(
    ("panel", "field", "offered"),
    [("compare", "text", "notes.md"), ("publish", "folder", "books/"), ("convert", "source", "books/")],
)
def test_panels_offer_what_a_field_is_for(open_panel: Open, folder: Path, panel: str, field: str, offered: str) -> None:
    options = getattr(getattr(open_panel(only=panel), panel), field).control.options
    assert offered in options and ("notes.md" in options) == (offered == "notes.md")


def test_a_calibration_text_is_offered(open_panel: Open, folder: Path) -> None:
    methods = open_panel(only="quantize").quantize.methods
    methods.form.method.value = "gptq"
    assert "notes.md" in methods.form.options["calibration"].control.options
