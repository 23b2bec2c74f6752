"""%qeval measures what its line says, and refuses what it cannot mean."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.lines import MagicLine, read_line
from tests.evaluation.plain import HELD_OUT


def test_a_line_is_read() -> None:
    line = "q --base 'my models/base' --text book.txt --seq-len 256 --num-tokens 1024 --stride 128 --noise-floor"
    options = {"base": "my models/base", "text": "book.txt", "seq_len": 256, "num_tokens": 1024, "stride": 128}
    assert read_line("qeval", line) == MagicLine(("q",), {**options, "noise_floor": True})
    assert read_line("qeval", "q --no-speed --device cpu").options == {"speed": False, "device": "cpu"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "%qeval needs MODEL"),
        ("q --tokens 5", "%qeval has no option --tokens: did you mean --num-tokens. its options are --base, .*--text"),
        ("q --num-tokens many", "--num-tokens must be a number of tokens, got 'many'"),
        ("q other", "expected one MODEL, got also 'other'"),
    ],
)
def test_what_a_line_cannot_mean_is_refused(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_line("qeval", line)


def test_a_line_asks_for_workers(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtoolkit.api.evaluate", lambda model, *, executor, **others: (executor, others))
    pool, others = shell.run_line_magic("qeval", "q --base folder --workers 3")
    assert (type(pool), pool._max_workers) == (ProcessPoolExecutor, 3)
    assert others.keys() == {"base", "on_progress"}


def test_variables_are_models_and_texts(shell: Any, tiny_llama: Path) -> None:
    shell.user_ns |= {"base": str(tiny_llama), "texts": [HELD_OUT]}
    shell.run_line_magic("quantize", "base --method absmax --bits 4 --device cpu --into q")
    line = "q --base base --text texts --seq-len 32 --num-tokens 128 --no-speed --device cpu"
    report = shell.run_line_magic("qeval", line)
    assert report.kl_divergence > 0 and report.num_windows == 4
    assert report.text == "1 text"


def test_help_tells_of_all_options(shell: Any) -> None:
    text = shell.find_line_magic("qeval").getdoc()
    assert "--base MODEL" in text and "--stride TOKENS" in text
