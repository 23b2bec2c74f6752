"""The power fails the moment a job has returned: on a real ext4, in a file."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import qtoolkit as qt
from tests.stream.power_jobs import make_base
from tests.stream.power_loss import State, read_tree

pytestmark = pytest.mark.slow

MEGABYTES = 128


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The file system in a file; skips the test where this process may not mount it."""
    folder.mkdir()
    mount = shutil.which("mount") or ""
    run = subprocess.run([mount, "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"this process may not mount a file: {run.stderr.strip()[-200:]}")
    try:
        yield folder
    finally:
        subprocess.run([shutil.which("umount") or "umount", folder], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty ext4 in a file."""
    mkfs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/sbin:/usr/sbin")
    if os.geteuid() != 0 or mkfs is None or shutil.which("mount") is None:
        pytest.skip("only root can mount a file, with mount and mkfs.ext4")
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(MEGABYTES << 20)
    subprocess.run([mkfs, "-q", image], check=True)
    return image


@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_what_was_saved_is_there_when_the_power_fails_at_once(image: Path, tmp_path: Path, before: str) -> None:
    base, after = make_base(tmp_path / "base"), tmp_path / "after"

    def save(folder: Path, bits: int) -> State:
        qt.quantize(base, qt.AbsMax(bits=bits), output=folder / "out", device="cpu", overwrite=True)
        return read_tree(folder / "out")

    with mounted(image, tmp_path / "disk") as disk:
        if before == "a model":
            save(disk, 8)
        saved = save(disk, 4)
        # What the disk holds by now, not what waits in memory.
        shutil.copyfile(image, after)
    with mounted(after, tmp_path / "again") as disk:
        assert read_tree(disk / "out") == saved
