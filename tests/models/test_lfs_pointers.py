"""A Git LFS pointer is told as one whatever file it stands for, and never read as that file."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError, QToolkitError
from qtoolkit.stream.journal import Journal, JournalLocation
from qtoolkit.texts.texts import check_texts
from tests.sample_models import random_model

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
LFS = "is a Git LFS pointer, not the file itself: run `git lfs pull` there"
FILES = (
    *("config.json", "generation_config.json", "quantize_config.json", "adapter_config.json"),
    *("model.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tekken.json", "chat_template.jinja", "chat_template.json"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pointers") / "model"
    random_model("llama").save_pretrained(folder)
    return folder


def with_pointer(saved: Path, to: Path, name: str) -> Path:
    folder = shutil.copytree(saved, to / "model")
    if name.endswith(".index.json"):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / name).write_bytes(POINTER)
    return folder


@pytest.mark.parametrize("verb", [qt.plan, qt.quantize, qt.load], ids=["plan", "quantize", "load"])
@pytest.mark.parametrize("name", FILES)
def test_every_file_of_a_model(saved: Path, tmp_path: Path, name: str, verb: Any) -> None:
    folder = with_pointer(saved, tmp_path, name)
    with pytest.raises(CheckpointError) as caught:
        verb(folder) if verb is qt.load else verb(folder, "absmax", device="cpu")
    assert str(caught.value) == f"{folder / name} {LFS}"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "onnx/model.onnx", "README.md", "picture.png"])
def test_what_is_not_read_may_stay_with_git(saved: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "onnx").mkdir()
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(POINTER)
    assert qt.plan(folder, "absmax", device="cpu").layers


def test_a_tokenizer_that_was_given_replaces_that_of_the_folder(saved: Path, tmp_path: Path) -> None:
    folder = with_pointer(saved, tmp_path, "tokenizer.json")
    assert qt.quantize(folder, "absmax", device="cpu", tokenizer=object()).report.layers


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        qt.plan(tmp_path, "absmax")


def test_gguf_files_in_a_folder(saved: Path, tmp_path: Path) -> None:
    folder = with_pointer(saved, tmp_path, "a.gguf")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        qt.plan(folder, "absmax")
    assert str(caught.value) == f"{folder / 'a.gguf'} {LFS}"


@pytest.mark.parametrize("suffix", [".txt", ".md", ".jsonl", ".parquet"])
def test_a_text(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"text{suffix}").write_bytes(POINTER)
    with pytest.raises(ConfigError, match="is a Git LFS pointer"):
        check_texts(str(tmp_path / f"text{suffix}"), "calibration")


@pytest.mark.parametrize("name", ["recipe.json", "block-00003.json", "block-00003.safetensors"])
def test_a_journal_keeps_its_blocks_until_they_are_fetched(tmp_path: Path, name: str) -> None:
    recipe = {"bits": 4}
    Journal(JournalLocation(tmp_path), recipe).write(3, {"a": torch.ones(2)}, {})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(QToolkitError, match="is a Git LFS pointer"):
        Journal(JournalLocation(tmp_path), recipe)
    (tmp_path / name).write_bytes(whole)
    assert Journal(JournalLocation(tmp_path), recipe).read(3, lambda _, __: True) is not None
