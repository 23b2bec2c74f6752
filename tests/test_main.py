"""`python -m qtoolkit PROGRAM` starts other programs, which then read our own format; seen in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from tests.sample_models import plain_logits, random_model

ROOT = Path(__file__).parent.parent
TOKENS = torch.arange(2, 34).reshape(1, 32)
# Another program: it knows transformers alone, has a module beside it, and ends with a status of its own.
PROGRAM = """
import sys
import torch
import beside
from transformers import AutoModelForCausalLM

if __name__ == "__main__":
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
    with torch.no_grad():
        torch.save(model(torch.arange(2, 34).reshape(1, 32)).logits, sys.argv[2])
    sys.exit(beside.STATUS)
"""


def start(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with a command line in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_script_that_knows_transformers_alone_reads_our_format(tmp_path: Path) -> None:
    model = random_model("llama", torch.float32)
    qt.quantize(model, qt.ZeroPoint(format="native"), device="cpu", output=tmp_path / "model")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "program.py").write_text(PROGRAM)
    (programs / "beside.py").write_text("STATUS = 7\n")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    expected = plain_logits(again, TOKENS)
    for before, is_read in (((), False), (("-m", "qtoolkit"), True)):
        done = start(*before, "programs/program.py", "model", "logits", folder=tmp_path)
        assert done.returncode == 7, done.stderr
        # By itself transformers 5 does not fail: it warns, and takes codes for weights.
        assert ("Unknown quantization type" in done.stderr) != is_read
        logits = torch.load(tmp_path / "logits")
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4) == is_read


@pytest.mark.once
def test_a_module_gets_its_arguments_and_is_main(tmp_path: Path) -> None:
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "__main__.py").write_text(
        "import sys; print(__name__, *sys.argv[1:], 'qtoolkit' in sys.modules)"
    )
    done = start("-m", "qtoolkit", "tool", "--model", "hf", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "__main__ --model hf True\n")


@pytest.mark.once
def test_a_command_of_an_installed_package_is_started(tmp_path: Path) -> None:
    (tmp_path / "a_tool.py").write_text("import sys\ndef main():\n    print(*sys.argv)\n    return 3\n")
    about = tmp_path / "a_tool-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: a-tool\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[console_scripts]\na-command = a_tool:main\n")
    done = start("-m", "qtoolkit", "a-command", "--help", folder=tmp_path)
    assert (done.returncode, done.stdout) == (3, "a-command --help\n")


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: python -m qtoolkit PROGRAM"),
        (("--help",), "usage: python -m qtoolkit PROGRAM"),
        (("absent.py",), "there is no file absent.py: give a path from"),
        (("absent.module",), "no command and no module 'absent.module' is installed in"),
        (("",), "no command and no module '' is installed in"),
    ],
    ids=["nothing", "an option", "a file", "a module", "an empty name"],
)
def test_what_cannot_be_started_is_refused_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = start("-m", "qtoolkit", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(message)
