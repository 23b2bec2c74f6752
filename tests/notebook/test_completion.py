"""Tab in a magic's line, asked the way that a kernel asks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.hub import cache
from qtoolkit.methods import available_methods
from qtoolkit.planning.machines import PROFILES

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
    monkeypatch.setattr(cache, "cached_names", lambda: ("org/one", "org/two", "other"))

    def complete(text: str) -> set[str]:
        return set(offered(shell, text))

    return complete


def offered(shell: InteractiveShell, text: str) -> list[str]:
    """The words at the end of a text, in the order in which a front-end gets them."""
    # IPython 7 uses an API of jedi that warns.
    with provisionalcompleter(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [item.text for item in shell.Completer.completions(text, len(text))]


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


def test_paths_are_those_of_the_working_folder(completed: Any) -> None:
    Path("a_folder/inner").mkdir(parents=True)
    Path("a_book.txt").touch()
    Path("a model.gguf").touch()
    assert {"a_folder/"} <= completed("%quantize m --output a_") and "a_book.txt" not in completed(
        "%quantize m --output a_"
    )
    assert {"a_book.txt", "a_folder/"} <= completed("%qeval m --text a_")
    assert "a_folder/inner/" in completed("%qpublish a_folder/")
    assert "'a model.gguf'" in completed("%quantize ")


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("%quantize m --de", ["--device", "--debug"]),
        ("%quantize m --method n", ["nf4"]),
        ("%quantize m --quant", ["--double-quant", "--no-double-quant"]),
        ("%qpanel --only p", ["plan", "publish"]),
        ("%qeval q --text ", ["wikitext2", "c4", "self"]),
        ("%quantize m --method gptq --calibration wikitext2=0.5,c", ["c4"]),
        ("%qcompare m --methods nf4,k", ["k"]),
        ("%quantize m --context ", ["4096"]),
        ("%qcompare m --methods nf4,g", ["gguf", "gptq"]),
        ("%quantize m \\\n  --de", ["--device", "--debug"]),
    ],
)
def test_nothing_else_stands_among_them(shell: InteractiveShell, text: str, words: list[str]) -> None:
    assert offered(shell, text) == words


def test_machines_stand_from_small_to_large(shell: InteractiveShell) -> None:
    assert offered(shell, "%qplan m --machine ") == list(PROFILES)


def test_options_begin_with_the_method_and_leave_out_what_is_given(shell: InteractiveShell) -> None:
    found = offered(shell, "%quantize m --output out ")
    assert found[0] == "--method" and "--output" not in found
    assert not [word for word in found if not word.startswith("--")]


def test_variables_that_hold_models(shell: InteractiveShell) -> None:
    model = type("SomeModel", (), {"get_memory_footprint": None})
    shell.push({"mine": model(), "number": 5})
    assert offered(shell, "%quantize mi") == ["mine"]
    assert offered(shell, "%qeval mine --base mi") == ["mine"]
    assert "number" not in offered(shell, "%quantize ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", ["method = ", "exclude = ", "include = ", "double_quant = ", "compute_dtype = "]),
        ('method = "gptq"\ntarget', ["target_bits = ", "target_size = "]),
        ("double_quant = true\nc", ["compute_dtype = "]),
        ('method = "n', ['nf4"']),
        ("double_quant = ", ["true", "false"]),
        ('method = "gptq"\nbits = ', ["2", "3", "4", "5", "6", "8"]),
        ('method = "gptq"\n[rules."*.x"]\nb', ["bits = "]),
    ],
)
def test_bodies_of_cells(shell: InteractiveShell, body: str, words: list[str]) -> None:
    assert offered(shell, f"%%quantize m\n{body}") == words


def test_bodies_of_comparisons(shell: InteractiveShell) -> None:
    assert offered(shell, "%%qcompare m\n") == ["[[configs]]", "prompts = "]
    assert offered(shell, '%%qcompare m\n[[configs]]\nmethod = "int8"\nthr') == ["threshold = "]


def test_a_terminal_gives_the_line_alone(shell: InteractiveShell) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "--device" in shell.Completer.complete(line_buffer="%quantize m --dev", cursor_pos=17)[1]


def test_a_quote_that_the_page_has_closed_is_not_closed_again(shell: InteractiveShell) -> None:
    text = '%%quantize m\nmethod = "gp"'
    with provisionalcompleter():
        assert [item.text for item in shell.Completer.completions(text, len(text) - 1)] == ["gptq"]


@pytest.mark.parametrize("text", ["quantize = ma", "quantize.ma", "quantize(ma", "quantize - ma"])
def test_a_variable_of_that_name_is_pythons(shell: InteractiveShell, text: str) -> None:
    shell.push({"quantize": 1})
    assert "org/one" not in offered(shell, text) and "--method" not in offered(shell, text)


def test_the_extension_unloaded_completes_nothing(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "qtoolkit")
    assert "--device" not in offered(shell, "%quantize m --de")
