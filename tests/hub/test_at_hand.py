"""Models at hand are listed by names and sizes of files: working folder, results, cache; no network and no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qtoolkit.hub.at_hand import SUGGESTED, ModelAtHand, models_at_hand
from tests.hub.test_local_models import _cache


def model(folder: Path, size: int, changed: float, **config: object) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for number, part in enumerate((size - 3, 3)):
        weights = folder / f"model-{number}.safetensors"
        weights.write_bytes(b"x" * part)
        os.utime(weights, (changed + number - 1, changed + number - 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("qtoolkit.hub.cache.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "work"


def test_each_place_the_newest_first_and_then_what_is_suggested(folder: Path, tmp_path: Path) -> None:
    model(folder / "older", 100, 1e9)
    model(folder / "newer", 50, 2e9)
    model(folder / "output" / "tiny-x", 30, 3e9, quantization_config={})
    (folder / "one.gguf").write_bytes(b"x" * 7)
    os.utime(folder / "one.gguf", (1.5e9, 1.5e9))
    _cache(tmp_path, "models--org--name", {"config.json": b"{}", "model.safetensors": b"x" * 9})
    cached = models_at_hand(folder)[4].changed
    assert models_at_hand(folder) == (
        ModelAtHand("newer", "working folder", 50, 2e9),
        ModelAtHand("one.gguf", "working folder", 7, 1.5e9, quantized=True),
        ModelAtHand("older", "working folder", 100, 1e9),
        ModelAtHand("output/tiny-x", "output", 30, 3e9, quantized=True),
        ModelAtHand("org/name", "Hub cache", 9, cached),
        *SUGGESTED,
    )


def test_what_is_no_model_is_left_out(folder: Path) -> None:
    model(folder / "half.partial", 9, 1e9)
    model(folder / ".hidden", 9, 1e9)
    (folder / "empty").mkdir()
    (folder / "no-config").mkdir()
    (folder / "no-config" / "a.safetensors").touch()
    (folder / "gone").symlink_to(folder / "nowhere")
    assert models_at_hand(folder) == SUGGESTED
    assert models_at_hand(folder / "nowhere") == SUGGESTED


def test_a_suggestion_that_is_cached_is_listed_once(folder: Path, tmp_path: Path) -> None:
    first, *others = SUGGESTED
    files = {"config.json": b"{}", "model.safetensors": b"x"}
    _cache(tmp_path, f"models--{first.name.replace('/', '--')}", files)
    assert [one.name for one in models_at_hand(folder)] == [first.name, *(one.name for one in others)]
    assert models_at_hand(folder)[0].place == "Hub cache"


def test_a_huge_folder_is_looked_at_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtoolkit.hub.at_hand._MOST_ENTRIES", 3)
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.gguf").touch()
    assert len(models_at_hand(folder)) == 3 + len(SUGGESTED)


@pytest.mark.once
def test_it_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, qtoolkit.hub.at_hand; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
