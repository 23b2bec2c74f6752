"""What a notebook shows of a record: the same rows as text and as HTML."""

from html import escape
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


def test_a_record_is_shown_as_its_rows(shell: InteractiveShell, tiny_llama: Path) -> None:
    plan = shell.run_line_magic("qplan", str(tiny_llama))
    shown, _ = shell.display_formatter.format(plan)
    assert shown["text/plain"] == str(plan)
    assert shown["text/plain"].startswith("Plan\n  Fits this machine: ")
    assert all(escape(row.value) in shown["text/html"] for row in plan.rows())
