"""What README.md and pages tell to type works, from top to bottom, with this checkout and a Hub of the test's own."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.writable import WritableHub
from tests.test_readme import PAGES, README, blocks

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What stands for the text that is downloaded.
SHORT = "--text book.txt --seq-len 32 --num-tokens 64 --no-speed"
# Pages whose blocks go on from those of README.md.
RUN = ("quickstart.md", "serving.md", "questions.md")


@pytest.mark.slow
def test_blocks_run_from_top_to_bottom(
    tiny_llama: Path,
    writable_hub: WritableHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {file.name: file.read_bytes() for file in tiny_llama.iterdir()}
    writable_hub.add(MODEL, files | {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("A text of some length, to measure on. " * 100)
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    try:
        pages = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
        typed = [block for text in (README, *(pages[name] for name in RUN)) for block in blocks(text)]
        ran: set[str] = set()
        for kind, text in typed:
            # Commands are looked at in tests/test_readme.py; the package is installed already.
            code = "" if kind == "console" else re.sub("^%pip .*$", "", text, flags=re.MULTILINE)
            # What README.md has shown to work, a page that repeats it need not.
            code = "".join(
                line for line in code.splitlines(keepends=True) if not (line.startswith("%") and line in ran)
            )
            ran |= set(code.splitlines(keepends=True))
            assert shell.run_cell(code.replace(f"--base {MODEL}", f"--base {MODEL} {SHORT}")).success, code
        shown = capsys.readouterr().out
        assert "times smaller" in shown and "Nothing was sent" in shown and "perplexity" in shown
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()


def test_each_block_of_the_pages_runs_or_says_why_not() -> None:
    unmarked = {page.name for page in PAGES if any(kind == "python" for kind, _ in blocks(page.read_text("utf-8")))}
    assert unmarked <= set(RUN)
