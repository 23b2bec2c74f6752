"""`%qfrontier` and `%%qfrontier`: line and body, on a real small model."""

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.completion import offered_at
from qtoolkit.notebook.lines import MAGICS, read_line
from qtoolkit.notebook.magic_errors import MagicError
from qtoolkit.records import Frontier
from qtoolkit.requests import FrontierRequest
from tests.jobs.compared import TEXT
from tests.notebook.test_qcompare import run


def test_a_line_and_a_cell_return_the_frontier(shell: InteractiveShell, tiny_llama: Path) -> None:
    shell.user_ns["my_texts"] = TEXT
    options = f"{tiny_llama} --text my_texts --seq-len 32 --num-tokens 96 --output kept --device cpu --memory '1 GB'"
    found = run(shell, f"f = %qfrontier {options} --methods absmax\nf")
    assert type(found) is Frontier
    assert [result.label for result in found.results] == ["AbsMax()"]
    assert (found.memory_limit, found.text) == (10**9, "40 texts")
    again = run(shell, f'%%qfrontier {options}\n[[configs]]\nmethod = "absmax"')
    # It was kept.
    assert again.results == found.results


LINES: dict[str, tuple[str, str | None, tuple[Any, ...], dict[str, Any]]] = {
    "memory": ("m --memory '4 GB'", None, (), {"memory": "4 GB"}),
    "sizes": ("m --size '90 MB' --size 120000000", None, (), {"sizes": ["90 MB", "120000000"]}),
    "methods": ("m --methods nf4,./folder", None, ("nf4", "./folder"), {}),
    "body": (
        "m --methods nf4 --no-resume",
        '[[configs]]\nmethod = "gptq"\nbits = 3',
        ("nf4", qt.GPTQ(bits=3)),
        {"resume": False},
    ),
}


@pytest.mark.parametrize(("line", "body", "configs", "options"), LINES.values(), ids=LINES)
def test_a_line_and_a_body_are_read(
    line: str, body: str | None, configs: tuple[Any, ...], options: dict[str, Any]
) -> None:
    given = read_line("qfrontier", line, body)
    assert (given.words, given.configs, given.options_of(FrontierRequest)) == (("m",), configs, options)


def test_bad_lines_are_told_in_one_line(shell: InteractiveShell, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="%%qfrontier has no prompts"):
        read_line("qfrontier", "m", 'prompts = ["a"]')
    with pytest.raises(ConfigError, match=r"%qfrontier has no option --bits: .*body of a %%qfrontier cell"):
        read_line("qfrontier", "m --methods gptq --bits 3")
    for line, said in {"": "memory or sizes must say", "--size no": "'no' is no size"}.items():
        with pytest.raises(MagicError, match=said):
            run(shell, f"%qfrontier {tiny_llama} {line}")


def test_help_and_tab_offer_all_options(shell: InteractiveShell) -> None:
    text = " ".join(shell.object_inspect_text("%qfrontier").split())
    for option in MAGICS["qfrontier"].options:
        assert f"{', '.join(option.flags)} {option.metavar}".strip() in text and option.help in text
    for line, offered in {"%qfrontier m --": "--size", "f = %qfrontier m --methods ": "nf4"}.items():
        found = offered_at(line, 0, len(line), shell.user_ns)
        assert found is not None and offered in found.words
