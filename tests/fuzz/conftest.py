"""Small sound files, which each example changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import qtoolkit as qt
from tests.sample_models import random_model

TINY: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
# A tokenizer with a part of each kind.
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "_"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
        ],
    },
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<unk>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<unk>": {"id": "<unk>", "ids": [0], "tokens": ["<unk>"]}},
    },
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3},
        "merges": [["a", "b"]],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model with a tokenizer, which each example finds as it was."""
    folder = tmp_path_factory.mktemp("fuzz") / "model"
    random_model("llama", **TINY, num_key_value_heads=1, vocab_size=16).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job wrote, with its receipt."""
    output = tmp_path_factory.mktemp("fuzz") / "quantized"
    qt.quantize(folder, qt.AbsMax(), output=output)
    return output


class Changing:
    """Writes files of a folder for one example, and puts back what was there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._kept = folder, dict[Path, bytes | None]()

    def write(self, name: str, data: bytes) -> None:
        file = self.folder / name
        self._kept.setdefault(file, file.read_bytes() if file.exists() else None)
        file.write_bytes(data)

    def restore(self) -> None:
        for file, data in self._kept.items():
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)


def changing(folder: Path) -> Iterator[Changing]:
    change = Changing(folder)
    try:
        yield change
    finally:
        change.restore()
