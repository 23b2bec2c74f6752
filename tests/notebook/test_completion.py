"""Tab in a magic's line, asked the way that a kernel asks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.hub import cache
from qtoolkit.methods import available_methods

FORMS = [
    "%quantize {}",
    "x = %quantize {}",
    "%%quantize {}",
    "a = 1\nfor i in a:\n    %quantize {}",
    "quantize {}",
    "%qplan {}",
]


@pytest.fixture
def completed(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The words that a front-end offers at the end of a text, whole: what stood before them is left out."""
    monkeypatch.setattr(cache, "local_models", lambda: ("org/one", "org/two", "other"))

    def complete(text: str) -> set[str]:
        # IPython 7 uses an API of jedi that warns.
        with provisionalcompleter(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {item.text for item in shell.Completer.completions(text, len(text))}

    return complete


@pytest.mark.parametrize("form", FORMS)
def test_models_of_the_local_cache(completed: Any, form: str) -> None:
    assert {"org/one", "org/two", "other"} <= completed(form.format(""))
    assert {"org/one", "org/two"} <= completed(form.format("org/"))
    assert "other" not in completed(form.format("org/"))


@pytest.mark.parametrize("form", [form for form in FORMS if "%%" not in form])
def test_options_and_their_values(completed: Any, form: str) -> None:
    assert {"--double-quant", "--device"} <= completed(form.format("m --d"))
    assert "--threshold" not in completed(form.format("m --t"))
    assert "--threshold" in completed(form.format("m --method int8 --t"))
    assert "--threshold" in completed(form.format("m --method=int8 --t"))
    # IPython adds Python's own names.
    assert "nf4" in completed(form.format("m --method n"))
    assert "int8" not in completed(form.format("m --method n"))
    assert "nf4" in completed(form.format("m --method=n"))
    assert set(available_methods()) <= completed(form.format("m --method "))
    assert "bfloat16" in completed(form.format("m --compute-dtype b"))
    assert "8" in completed(form.format("m --method absmax --bits "))
    assert "--output" in completed(form.format("m --method nf5 --o"))


def test_a_cells_line_has_the_options_of_the_job_only(completed: Any) -> None:
    assert "--output" in completed("%%quantize m --o")
    assert "--device" in completed("%%quantize m --d")
    assert "--double-quant" not in completed("%%quantize m --d")


def test_after_the_model_come_options_also_when_a_value_stands_before_it(completed: Any) -> None:
    assert "--output" in completed("%quantize --method nf4 m ")
    assert "org/one" not in completed("%quantize --method nf4 m ")
    assert "org/one" in completed("%quantize --method nf4 --double-quant ")


def test_a_value_that_may_be_anything_is_left_to_ipython(completed: Any) -> None:
    Path("a_file_here").touch()
    found = completed("%quantize m --output a_f")
    assert "a_file_here" in found


def test_methods_of_other_packages(completed: Any, brought_method: str) -> None:
    assert brought_method in completed("%quantize m --method h")
    assert "--rounds" in completed(f"%quantize m --method {brought_method} --r")
    assert {"1", "2", "3"} <= completed(f"%quantize m --method {brought_method} --rounds ")


@pytest.mark.parametrize("text", ["quantize", "quantize.", "x = quantize ", "print(5 %quant", "%quantizer --d"])
def test_other_lines_are_left_alone(completed: Any, text: str) -> None:
    assert not {"org/one", "--device"} & completed(text)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("%qeval q --no", {"--noise-floor", "--no-speed"}),
        ("%qeval q --text book.txt --s", {"--seq-len", "--stride"}),
        ("%qcompare q --me", {"--methods", "--memory"}),
        ("%qpublish out me/x --p", {"--public", "--pr"}),
        ("p = %qpublish out me/x --q", {"--quality"}),
    ],
)
def test_options_of_magics_that_take_no_method(completed: Any, text: str, options: set[str]) -> None:
    assert {word for word in completed(text) if word.startswith("--")} == options


@pytest.mark.parametrize("line", ["%quantize m --push me/x ", "%%quantize m --push me/x ", "%qpublish out me/x "])
def test_relations_to_a_base(completed: Any, line: str) -> None:
    assert {"--base-model", "--base-model-relation"} <= completed(f"{line}--base")
    assert "finetune" in completed(f"{line}--base-model-relation f")
