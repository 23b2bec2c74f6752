"""`%quantize?`: every method with its summary, every option with help, choices, unit and default."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.methods import available_methods, get_method
from qtoolkit.notebook.lines import MAGICS
from qtoolkit.notebook.options import tables


@pytest.fixture
def shown(shell: InteractiveShell) -> Any:
    """What a front-end shows for `NAME?`, with its line breaks as blanks."""
    return lambda name: " ".join(shell.object_inspect_text(name).split())


@pytest.mark.parametrize("name", ["%quantize", "%%quantize", "%qplan"])
@pytest.mark.parametrize("method", available_methods())
def test_help_tells_all_of_a_method(shown: Any, name: str, method: str) -> None:
    text = shown(name)
    assert get_method(method).summary in text
    for field in fields(get_method(method).config_class):
        table, flag = f'[{field.name}."PATTERN"]', "--" + field.name.replace("_", "-")
        assert (table if field.name in tables(get_method(method).config_class) else flag) in text
        assert field.metadata["help"] in text
        assert f"in {field.metadata['unit']}" in text or not field.metadata["unit"]
        assert all(str(choice) in text for choice in field.metadata["choices"] or ())


def test_help_tells_usage_and_the_options_of_the_job(shown: Any) -> None:
    text = shown("%quantize")
    assert "%quantize MODEL [--method NAME]" in text
    for option in MAGICS["quantize"].options:
        assert f"{', '.join(option.flags)} {option.metavar}".strip() in text and option.help in text


def test_help_has_the_methods_of_other_packages(shown: Any, brought_method: str) -> None:
    text = shown("%quantize")
    assert "Method halves: halves what it finds" in text
    assert "--rounds VALUE how often to halve; one of 1, 2, 3; in halvings (default: 3)" in text
    assert "--sizes A,B some sizes (default: none)" in text


def test_a_broken_package_does_not_take_the_help_away(shown: Any, brought_method: str) -> None:
    folder = next(path for path in map(Path, sys.path) if (path / "qtoolkit_halves.py").exists())
    (folder / "qtoolkit_halves.py").write_text("import no_such_package_at_all")
    sys.modules.pop("qtoolkit_halves", None)
    text = shown("%quantize")
    assert "Method halves cannot be used: ModuleNotFoundError: No module named 'no_such_package_at_all'" in text
    assert get_method("nf4").summary in text


@pytest.mark.parametrize(("name", "said"), [("%qmemory", "run the cell and tell"), ("%qdoctor", "bug report")])
def test_the_other_magics_have_help_too(shown: Any, name: str, said: str) -> None:
    assert said in shown(name)
