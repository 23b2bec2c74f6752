"""What README.md tells to type works, from top to bottom, with this checkout and a Hub of the test's own."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.writable import WritableHub
from tests.test_readme import README, blocks

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What stands for the text that is downloaded.
SHORT = "--text book.txt --seq-len 32 --num-tokens 64 --no-speed"


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
        for kind, text in blocks(README):
            # Commands are looked at in tests/test_readme.py; the package is installed already.
            code = "" if kind == "console" else re.sub("^%pip .*$", "", text, flags=re.MULTILINE)
            assert shell.run_cell(code.replace(f"--base {MODEL}", f"--base {MODEL} {SHORT}")).success, code
        shown = capsys.readouterr().out
        assert "times smaller" in shown and "Nothing was sent" in shown and "perplexity" in shown
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
