"""Bytes of weight files, and free space where a folder is or would be."""

import shutil
from pathlib import Path

import pytest

from qtoolkit.measure.disk import disk_size, free_disk

pytestmark = pytest.mark.once


def test_weight_files_are_added_up_and_others_are_not(tmp_path: Path) -> None:
    for name, size in {
        "model-1.safetensors": 10,
        "model-2.safetensors": 20,
        "x.gguf": 5,
        "pytorch_model.bin": 99,
    }.items():
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.safetensors").write_bytes(bytes(40))
    assert disk_size(tmp_path) == 35


def test_links_are_followed_and_a_file_counts_once(tmp_path: Path) -> None:
    """The Hub's cache keeps files under `blobs` and links to them, two names of one content to one blob."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "1f2e").write_bytes(bytes(1000))
    for name in ("model.safetensors", "consolidated.safetensors"):
        (snapshot / name).symlink_to(blobs / "1f2e")
    assert disk_size(snapshot) == 1000


def test_a_single_weight_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(bytes(7))
    (tmp_path / "b.gguf").write_bytes(bytes(8))
    assert disk_size(tmp_path / "a.gguf") == 7


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk_size(tmp_path / "absent")


@pytest.mark.parametrize("place", ["", "new", "new/deeper/still"])
def test_free_space_is_that_of_the_nearest_parent(tmp_path: Path, place: str) -> None:
    assert free_disk(tmp_path / place) == pytest.approx(shutil.disk_usage(tmp_path).free, abs=500_000_000)
    assert not (tmp_path / "new").exists()


def test_free_space_of_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_disk(Path("output/model")) == pytest.approx(shutil.disk_usage(tmp_path).free, abs=500_000_000)
