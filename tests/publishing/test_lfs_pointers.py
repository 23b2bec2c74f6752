"""qt.verify names every Git LFS pointer in a folder, whether a receipt vouches for the file or not."""

import shutil
from pathlib import Path

import pytest

from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.file_checks import check_receipt, check_regular
from tests.models.test_lfs_pointers import POINTER

FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("model.safetensors", "model.safetensors.index.json", "README.md", "qtoolkit.json", "adapter_model.safetensors"),
)


@pytest.mark.parametrize("name", FILES)
def test_it_is_told(tmp_path: Path, tiny_llama: Path, name: str) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    assert check_regular(open_artifact(folder)) is None
    (folder / name).write_bytes(POINTER)
    check = check_regular(open_artifact(folder))
    assert check is not None and check.passed is False
    assert f"{name} is a Git LFS pointer, not the file itself: run `git lfs pull` there" in check.value
    assert str(folder) not in check.value


def test_a_receipt_that_is_one_is_no_damaged_receipt(tmp_path: Path, tiny_llama: Path) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "qtoolkit.json").write_bytes(POINTER)
    check = check_receipt(open_artifact(folder))
    assert check.passed is False
    assert check.value == "qtoolkit.json is a Git LFS pointer, not the file itself: run `git lfs pull` there"
