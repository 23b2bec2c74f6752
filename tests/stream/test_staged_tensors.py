"""Tensors on the disk come back as they were, and nothing is left of them, whatever happens."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from qtoolkit.errors import DiskFullError
from qtoolkit.stream import staged_tensors
from qtoolkit.stream.staged_tensors import StagedTensors

TENSORS = [
    torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
]


def test_they_come_back_last_in_first_out(tmp_path: Path) -> None:
    with StagedTensors(tmp_path, 1000) as states:
        for tensor in (*TENSORS, TENSORS[0].mT):
            states.append(tensor)
        assert torch.equal(states[1], TENSORS[1]) and torch.equal(states[0], TENSORS[0])
        assert torch.equal(states.pop(), TENSORS[0].mT) and torch.equal(states.pop(), TENSORS[2])
        states.append(TENSORS[0])
        for tensor in (TENSORS[0], TENSORS[1], TENSORS[0]):
            found = states.pop()
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_what_was_taken_off_leaves_the_disk(tmp_path: Path) -> None:
    with StagedTensors(tmp_path, 4_000_000) as states:
        states.append(torch.zeros(500_000))
        states.append(torch.zeros(500_000))
        states.pop()
        assert os.fstat(states._file.fileno()).st_size == 2_000_000


def test_the_file_has_no_name(tmp_path: Path) -> None:
    with StagedTensors(tmp_path, 1000) as states:
        states.append(TENSORS[0])
        assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="closed"):
        states.append(TENSORS[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        with StagedTensors(tmp_path, 1000) as states:
            states.append(TENSORS[0])
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_tensors, "free_disk", lambda folder: 999)
    with pytest.raises(
        DiskFullError, match=rf"do not fit {tmp_path} \(1.0 kB of 999 bytes free\): free some room there"
    ):
        StagedTensors(tmp_path, 1000)
    StagedTensors(tmp_path, 999).__exit__(None, None, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_disk_that_fills_up_is_told(tmp_path: Path) -> None:
    with StagedTensors(tmp_path, 1000) as states:
        states._file.close()
        states._file = Path("/dev/full").open("r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115
        with pytest.raises(DiskFullError, match=os.strerror(errno.ENOSPC)):
            states.append(TENSORS[0])
