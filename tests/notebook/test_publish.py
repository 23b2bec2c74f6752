"""`%qpublish` and `%quantize --push`: the line becomes arguments, and a push that cannot be done stops no job late."""

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit.errors import ConfigError
from qtoolkit.notebook.arguments import read_publication
from qtoolkit.notebook.errors import MagicError
from tests.hub.fixture import WRITE_TOKEN, writable_hub
from tests.hub.writable import WritableHub

__all__ = ["writable_hub"]
PLAIN = {"path": "out", "repo_id": "me/x", "base": None, "license": None, "revision": "main", "dry_run": False}
PLAIN |= {"private": True, "create_pr": False}
LINES: dict[str, dict[str, Any]] = {
    "out me/x": {},
    "out me/x --public --dry-run": {"private": False, "dry_run": True},
    "'my out' me/x --pr --license mit": {"path": "my out", "create_pr": True, "license": "mit"},
    "out me/x --revision q4 --base org/base": {"revision": "q4", "base": "org/base"},
}


@pytest.mark.parametrize(("line", "changes"), LINES.items(), ids=LINES)
def test_a_line_becomes_arguments(line: str, changes: dict[str, Any]) -> None:
    assert read_publication(line) == PLAIN | changes


@pytest.mark.parametrize("line", ["", "out", "out me/x more", "out me/x --token hf_x"])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match="%qpublish"):
        read_publication(line)


def test_what_was_quantized_is_pushed(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    line = f"{tiny_llama} --method absmax --output {tmp_path / 'out'} --push me/tiny --license apache-2.0"
    report = shell.run_line_magic("quantize", line)
    assert type(report).__name__ == "QuantizationReport"
    assert writable_hub.repositories["me/tiny"].private
    publication = shell.run_line_magic("qpublish", f"{tmp_path / 'out'} me/tiny --license apache-2.0")
    assert set(publication.unchanged) == set(publication.files)


def test_without_a_token_the_job_does_not_begin(
    shell: InteractiveShell, tiny_llama: Path, tmp_path: Path, writable_hub: WritableHub
) -> None:
    with pytest.raises(MagicError, match="writing to me/tiny needs a token"):
        shell.run_line_magic("quantize", f"{tiny_llama} --method absmax --output {tmp_path / 'out'} --push me/tiny")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [("--push me/tiny", "--push me/tiny needs --output"), ("--license mit", "--license is for a card")],
)
def test_a_push_without_what_it_needs_is_refused(
    shell: InteractiveShell, tiny_llama: Path, options: str, message: str
) -> None:
    with pytest.raises(MagicError, match=message):
        shell.run_line_magic("quantize", f"{tiny_llama} --method absmax {options}")
