"""`%qverify` checks the folder that its line names, and says what it takes otherwise."""

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.lines import MagicLine, read_line
from qtoolkit.notebook.magic_errors import MagicError


def test_a_line_is_read() -> None:
    given = MagicLine(("my model",), {"base": "org/name", "for_": "vllm"})
    assert read_line("qverify", "'my model' --base org/name --for vllm") == given


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "%qverify needs FOLDER: `%qverify FOLDER`"),
        ("a b", "expected one FOLDER, got also 'b'"),
        ("a --text book.txt", "%qverify has no option --text: its options are --license, --base, --for, --debug"),
    ],
)
def test_another_line_is_refused(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_line("qverify", line)


def test_a_model_in_memory_is_told_to_be_saved(shell: InteractiveShell) -> None:
    shell.user_ns["q"] = object()
    with pytest.raises(MagicError, match=r"^%qverify takes a folder, and the variable q holds object: .*`q\.save\("):
        shell.run_line_magic("qverify", "q")


@pytest.mark.slow
def test_variables_are_folder_and_base(shell: InteractiveShell, tiny_llama: Path) -> None:
    shell.user_ns |= {"folder": tiny_llama, "model": str(tiny_llama)}
    verification = shell.run_line_magic("qverify", "folder --base model --for vllm")
    seen = {check.name: (check.passed, check.value) for check in verification.checks}
    assert verification.failed == () and seen["loads in transformers"][0]
    assert seen["token ids"] == (True, "as in the base") and seen["a program loads it"][1].startswith("loads in vLLM")
