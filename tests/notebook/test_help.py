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


@pytest.fixture
def asked(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a line with `--help` prints."""

    def run(line: str) -> str:
        assert shell.run_cell(line).success
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("method", available_methods())
def test_help_tells_all_of_the_method_that_is_chosen(asked: Any, method: str) -> None:
    text = " ".join(asked(f"%quantize m --method {method} --help").split())
    assert get_method(method).summary in text
    for field in fields(get_method(method).config_class):
        table, flag = f'[{field.name}."PATTERN"]', "--" + field.name.replace("_", "-")
        assert (table if field.name in tables(get_method(method).config_class) else flag) in text
        assert field.metadata["help"] in text
        assert f"in {field.metadata['unit']}" in text or not field.metadata["unit"]
        assert all(str(choice) in text for choice in field.metadata["choices"] or ())


def test_help_shows_one_method_and_names_the_others(shown: Any, asked: Any) -> None:
    text = shown("%quantize")
    assert get_method("nf4").summary in text and get_method("gptq").summary not in text
    assert all(method in text for method in available_methods())
    assert get_method("nf4").summary not in asked("%quantize m --method gptq --help")
    assert get_method("nf4").summary in asked("%quantize m --method none-such --help")


@pytest.mark.parametrize("magic", [*MAGICS, "qmemory", "qdoctor"])
def test_help_begins_with_what_it_does_and_examples_and_is_no_wider_than_a_cell(asked: Any, magic: str) -> None:
    lines = asked(f"%{magic} --help").splitlines()
    assert max(map(len, lines)) <= 88
    examples = lines.index("") if "" in lines else 0
    assert examples <= 2
    assert magic == "qdoctor" or f"%{magic}" in lines[examples + 1]


def test_help_of_a_plan_tells_what_a_plan_does(shown: Any) -> None:
    assert "without reading a weight" in shown("%qplan") and "%qplan org/name" in shown("%qplan")
    assert "%quantize org/name" not in shown("%qplan")


def test_help_is_asked_for_without_a_model_too(asked: Any) -> None:
    assert "--double-quant" in asked("%quantize --help") and "--double-quant" in asked("%quantize -h")


def test_help_tells_the_options_of_the_job(shown: Any) -> None:
    text = shown("%quantize")
    for option in MAGICS["quantize"].options:
        assert f"{', '.join(option.flags)} {option.metavar}".strip() in text and option.help in text


def test_help_has_the_methods_of_other_packages(shown: Any, asked: Any, brought_method: str) -> None:
    assert brought_method in shown("%quantize")
    text = " ".join(asked(f"%quantize m --method {brought_method} --help").split())
    assert "Method halves: halves what it finds" in text
    assert "--rounds VALUE how often to halve; one of 1, 2, 3; in halvings (default: 3)" in text
    assert "--sizes A,B some sizes (default: none)" in text


def test_a_broken_package_does_not_take_the_help_away(asked: Any, brought_method: str) -> None:
    folder = next(path for path in map(Path, sys.path) if (path / "qtoolkit_halves.py").exists())
    (folder / "qtoolkit_halves.py").write_text("import no_such_package_at_all")
    sys.modules.pop("qtoolkit_halves", None)
    text = " ".join(asked(f"%quantize m --method {brought_method} --help").split())
    assert "Method halves cannot be used: ModuleNotFoundError: No module named 'no_such_package_at_all'" in text
    assert "--output" in text


@pytest.mark.parametrize(("name", "said"), [("%qmemory", "run the cell, and tell"), ("%qdoctor", "bug report")])
def test_the_other_magics_have_help_too(shown: Any, name: str, said: str) -> None:
    assert said in shown(name)
