"""A saved model in one zip file: whole or not at all."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qtoolkit.errors import DiskFullError, JobCancelled, ModelNotFoundError
from qtoolkit.jobs.zipping import zip_folder
from qtoolkit.records import ProgressEvent, ignore_progress

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files, one of them in a folder of its own."""
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"x" * 1000)
    (folder / "inner" / "b.json").write_bytes(b"{}")
    return folder


def beside(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.parent.iterdir())


def test_folders_in_it_come_along(folder: Path, tmp_path: Path) -> None:
    archive = zip_folder(folder, on_progress=ignore_progress)
    assert archive.num_files == 2 and archive.size == Path(archive.path).stat().st_size
    shutil.unpack_archive(archive.path, tmp_path / "there")
    assert (tmp_path / "there/model/inner/b.json").read_bytes() == b"{}"
    assert (tmp_path / "there/model/a.safetensors").read_bytes() == b"x" * 1000


def test_a_cancelled_one_leaves_nothing(folder: Path) -> None:
    def cancel(event: ProgressEvent) -> None:
        raise JobCancelled("no more")

    with pytest.raises(JobCancelled):
        zip_folder(folder, on_progress=cancel)
    assert beside(folder) == ["model"]


def test_a_full_disk_is_told_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int = 1001

    def usage(path: Any) -> Usage:
        return Usage()

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(DiskFullError, match=r"takes 3\.0 kB, and 1\.0 kB are free"):
        zip_folder(folder, on_progress=ignore_progress)
    assert beside(folder) == ["model"]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no folder .*gone"):
        zip_folder(tmp_path / "gone", on_progress=ignore_progress)
