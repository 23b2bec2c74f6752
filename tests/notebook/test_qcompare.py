"""`%qcompare` and `%%qcompare`: line and body, on a real small model."""

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.completion import offered_at
from qtoolkit.notebook.lines import MAGICS, read_line
from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.records import Comparison
from qtoolkit.requests import CompareRequest
from tests.jobs.compared import TEXT


def run(shell: InteractiveShell, cell: str) -> Any:
    """The value of a cell, or its error raised here."""
    result = shell.run_cell(cell, store_history=True)
    result.raise_error()
    return result.result


def test_a_line_and_a_cell_return_the_comparison(shell: InteractiveShell, tiny_llama: Path) -> None:
    shell.user_ns["my_texts"] = TEXT
    options = f"{tiny_llama} --text my_texts --seq-len 32 --num-tokens 96 --output kept --device cpu"
    found = run(shell, f'c = %qcompare {options} --methods absmax --prompt "A boat" --memory "1 GB"\nc')
    assert type(found) is Comparison
    assert [result.label for result in found.results] == ["AbsMax()"]
    assert (found.prompts, found.memory_limit, found.text) == (("A boat",), 10**9, "40 texts")
    again = run(shell, f'%%qcompare {options}\nprompts = ["A boat"]\n[[configs]]\nmethod = "absmax"')
    # It was kept.
    assert again.results == found.results


def test_methods_without_commas_are_told_how_they_are_written() -> None:
    with pytest.raises(ConfigError, match="got also 'int8': write methods with commas and no blanks: --methods A,int8"):
        read_line("qcompare", "m --methods nf4 int8")


def test_an_executor_in_a_variable_is_used(shell: InteractiveShell, tiny_llama: Path) -> None:
    shell.user_ns["pool"] = "no executor"
    with pytest.raises(MagicError, match=r"executor must be a concurrent\.futures\.Executor, got str"):
        run(shell, f"%qcompare {tiny_llama} --methods absmax --executor pool")


LINES: dict[str, tuple[str, str | None, tuple[Any, ...], dict[str, Any]]] = {
    "methods": ("m --methods nf4,int8", None, ("nf4", "int8"), {"prompts": []}),
    "blanks": ("m --methods 'nf4, ./folder'", None, ("nf4", "./folder"), {"prompts": []}),
    "base": ("m --base --methods nf4", None, (None, "nf4"), {"prompts": []}),
    "prompts": ("m --methods nf4 --prompt a --prompt 'b c'", None, ("nf4",), {"prompts": ["a", "b c"]}),
    "numbers": (
        "m --base --seq-len 64 --num-tokens 640",
        None,
        (None,),
        {"seq_len": 64, "num_tokens": 640, "prompts": []},
    ),
    "others": (
        "m --base --memory '4 GB' --output out --device cpu --revision v1",
        None,
        (None,),
        {"memory": "4 GB", "output": "out", "device": "cpu", "revision": "v1", "prompts": []},
    ),
    "body": (
        "m --methods nf4 --prompt a",
        'prompts = ["b"]\n[[configs]]\nmethod = "gptq"\nbits = 3\n[[configs]]\nmethod = "int8"',
        ("nf4", qt.GPTQ(bits=3), qt.Int8()),
        {"prompts": ["a", "b"]},
    ),
}


@pytest.mark.parametrize(("line", "body", "configs", "options"), LINES.values(), ids=LINES)
def test_a_line_and_a_body_are_read(
    line: str, body: str | None, configs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    given = read_line("qcompare", line, body)
    assert (given.words, given.configs, given.options_of(CompareRequest)) == (("m",), configs, options)


BAD: dict[str, tuple[str, str | None, str]] = {
    "nothing to compare": ("m", None, "needs something to compare: --methods"),
    "an option of a method": ("m --methods gptq --bits 3", None, "%qcompare has no option --bits"),
    "no model": ("--methods nf4", None, "MODEL"),
    "no number": ("m --base --seq-len many", None, "--seq-len must be a number of tokens"),
    "no TOML": ("m", "configs = [", "cannot be read as TOML"),
    "another key": ("m", 'method = "nf4"', "the cell's body has configs and prompts, got 'method'"),
    "a list of names": ("m", 'configs = ["nf4"]', r"write \[\[configs\]\]"),
    "one prompt": ("m", 'prompts = "a"', "prompts must be a list of texts"),
    "an option that there is not": ("m", '[[configs]]\nmethod = "nf4"\nbits = 3', "NF4 has no option 'bits'"),
}


@pytest.mark.parametrize(("line", "body", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_told_in_one_line(line: str, body: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_line("qcompare", line, body)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["%qcompare", "%%qcompare"])
def test_help_tells_all_options(shell: InteractiveShell, name: str) -> None:
    text = " ".join(shell.object_inspect_text(name).split())
    for option in MAGICS["qcompare"].options:
        assert f"{', '.join(option.flags)} {option.metavar}".strip() in text and option.help in text


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%qcompare m --", "--num-tokens"),
        ("c = %qcompare m --methods ", "nf4"),
        ("%%qcompare m --device ", "cuda"),
    ],
)
def test_tab_offers_options_and_values(shell: InteractiveShell, line: str, offered: str) -> None:
    found = offered_at(line, 0, len(line), shell.user_ns)
    assert found is not None and offered in found.words
    assert not {"--double-quant", "--plan"} & set(found.words)
