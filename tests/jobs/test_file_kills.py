"""A job that writes a `.gguf` file is killed in the middle: the folder that was there stays whole."""

import subprocess
import sys
from pathlib import Path

import gguf
import pytest

import qtoolkit as qt

_CHILD = """
import os, signal, sys
import qtoolkit as qt

left = iter(range(5))

def stop(event):
    if event.phase == "quantize" and next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

qt.quantize(sys.argv[1], qt.GGUF("Q4_0"), output=sys.argv[2], overwrite=True, on_progress=stop)
"""


@pytest.mark.slow
def test_a_killed_job_leaves_the_old_folder_and_the_next_one_replaces_it(tiny_llama: Path, tmp_path: Path) -> None:
    """In shards, as tiny_llama is; the second job is the one that was killed, so it must find its way past the rest."""
    out = tmp_path / "out"
    qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"), output=out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    child = subprocess.run([sys.executable, "-c", _CHILD, str(tiny_llama), str(out)], check=False, timeout=120)
    assert child.returncode == -9
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before

    qt.quantize(str(tiny_llama), qt.GGUF("Q4_0"), output=out, overwrite=True)
    (file,) = out.glob("*.gguf")
    assert "Q4_0" in {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert not list(tmp_path.glob("*partial*"))
