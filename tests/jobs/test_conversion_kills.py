"""A conversion that is killed leaves the old folder whole, and one that goes on needs little memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.files import sha256_of
from qtoolkit.measure.peak import measure_peak
from qtoolkit.records import ProgressEvent
from tests.formats.gptq import files

# Kills itself as soon as half of the tensors are written.
KILLED = """
import os, signal, sys
import qtoolkit as qt
def kill(event):
    if event.phase == "save" and event.done > event.total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
qt.convert(sys.argv[1], "mlx", sys.argv[2], overwrite=True, on_progress=kill)
"""


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in folder.iterdir()}


@pytest.mark.slow
def test_killed_it_leaves_what_was_there(tmp_path: Path) -> None:
    files.write_checkpoint(files.Recipe(), tmp_path)
    output = tmp_path / "out"
    qt.convert(tmp_path / "gptq", "compressed-tensors", output)
    before = hashes(output), hashes(tmp_path / "gptq")
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "gptq"), str(output)]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})
    assert ended.returncode == -signal.SIGKILL
    assert (hashes(output), hashes(tmp_path / "gptq")) == before
    record = qt.convert(tmp_path / "gptq", "mlx", output, overwrite=True)
    assert record.format == "mlx" and not (tmp_path / "out.partial").exists()


def test_stopped_it_leaves_nothing(tmp_path: Path) -> None:
    files.write_checkpoint(files.Recipe(), tmp_path)

    def stop(event: ProgressEvent) -> None:
        raise qt.JobCancelled("stopped")

    with pytest.raises(qt.JobCancelled):
        qt.convert(tmp_path / "gptq", "mlx", tmp_path / "out", on_progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "gptq"}


@pytest.mark.slow
def test_one_layer_is_in_memory_at_one_time(tmp_path: Path) -> None:
    changes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 8}
    recipe = files.Recipe(changes={**changes, "num_key_value_heads": 8, "vocab_size": 32_768}, group_size=128)
    files.write_checkpoint(recipe, tmp_path)
    qt.convert(tmp_path / "gptq", "compressed-tensors", tmp_path / "first")
    # The embedding alone is twice as large.
    block = 2 * (4 * 1024 * 1024 + 3 * 1024 * 4096)
    with measure_peak() as meter:
        qt.convert(tmp_path / "gptq", "mlx", tmp_path / "second")
    report = meter.report
    assert report.peak_rss - report.rss_before < 1.2 * block
