"""What no reader can end with, in the place of a file beside the weights: told in one line, or passed over."""

import os
import shutil
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.checkpoints.folder import MAX_CONFIG_BYTES
from qtoolkit.checkpoints.panics import MAX_TOKENIZER_BYTES
from qtoolkit.errors import SourceError
from tests.fuzz.mutations import ends_well
from tests.sample_models import random_model

# What hangs, hangs for ever.
pytestmark = pytest.mark.timeout(60)

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
TEXTS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "additional_chat_templates/x.jinja")
OTHERS = ("config.json", "generation_config.json", "model.safetensors.index.json", "preprocessor_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    random_model("llama").save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(smollm2 / name, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def emptied(file: Path) -> Path:
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    return file


@pytest.mark.parametrize("name", [*TOKENIZERS, *TEXTS, *OTHERS, "qtoolkit.json", "adapter_config.json"])
def test_a_named_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    os.mkfifo(emptied(folder / name))
    ends_well(lambda: qt.load(folder))
    ends_well(lambda: qt.plan(folder, "absmax"))


@pytest.mark.parametrize("name", [*TOKENIZERS, *TEXTS])
def test_a_tokenizer_file_larger_than_any_is_not_read(folder: Path, name: str) -> None:
    with emptied(folder / name).open("wb") as stream:
        stream.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(SourceError, match=rf"{name} has 400\.0 MB, and no tokenizer has more"):
        qt.load(folder)


def test_a_generation_config_larger_than_any_is_not_read(folder: Path) -> None:
    file = emptied(folder / "generation_config.json")
    with file.open("wb") as stream:
        stream.truncate(MAX_CONFIG_BYTES + 1)
    with pytest.raises(SourceError, match=r"generation_config\.json is larger than 32\.0 MB: correct or remove it"):
        qt.plan(folder, "absmax")
