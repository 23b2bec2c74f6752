"""The same text gives the same samples from a list, a file of each kind, and a Dataset."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from qtoolkit.errors import ConfigError, SourceError
from qtoolkit.texts import calibration_text, texts
from qtoolkit.texts.texts import check_texts, cut
from tests.texts.calibration_texts import DOCUMENTS, TEXT, load


def _jsonl(folder: Path) -> Path:
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(DOCUMENTS)]
    (folder / "a.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return folder / "a.jsonl"


def _parquet(folder: Path, column: str = "text", kind: pa.DataType | None = None) -> Path:
    texts_ = pa.array([*DOCUMENTS, None], kind or pa.string())
    numbers = pa.array(range(len(DOCUMENTS) + 1))
    parquet.write_table(pa.table({"id": numbers, column: texts_}), folder / "a.parquet", row_group_size=7)
    return folder / "a.parquet"


def _dataset(column: str = "text") -> datasets.Dataset:
    return datasets.Dataset.from_dict({"id": list(range(len(DOCUMENTS))), column: DOCUMENTS})


KINDS: dict[str, Callable[[Path], Any]] = {
    "tuple": lambda _: tuple(DOCUMENTS),
    "jsonl": _jsonl,
    "jsonl as text": lambda folder: str(_jsonl(folder)),
    "parquet": _parquet,
    "parquet, large strings": lambda folder: _parquet(folder, kind=pa.large_string()),
    "parquet, only column of texts": lambda folder: _parquet(folder, column="content"),
    "Dataset": lambda _: _dataset(),
    "Dataset, only column of texts": lambda _: _dataset("content"),
    "Dataset in another format": lambda _: _dataset().with_format("pandas"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_the_same_from_everywhere(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    value = KINDS[kind](tmp_path)
    check_texts(value, "calibration")
    assert load(value, tokenizer).fingerprint == load(DOCUMENTS, tokenizer).fingerprint


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.raw", "A.TXT"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_plain_text_is_one_document(tokenizer: Any, tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_text(TEXT, encoding=encoding)
    check_texts(tmp_path / name, "calibration")
    sample = load(tmp_path / name, tokenizer)
    assert sample.fingerprint == load([TEXT], tokenizer).fingerprint
    assert sample.name == name


def test_home_is_found(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    check_texts("~/a.txt", "calibration")
    assert load("~/a.txt", tokenizer).fingerprint == load([TEXT], tokenizer).fingerprint


def test_characters_stay_whole_where_a_block_ends(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Grüße aus Köln, 東京, और 🙂. " * 200
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    whole = load([text], tokenizer).fingerprint
    monkeypatch.setattr("qtoolkit.texts.text_bytes.BLOCK", 7)
    assert load(tmp_path / "a.txt", tokenizer).fingerprint == whole


@pytest.mark.parametrize("broken", ["binary.txt", "broken.jsonl"])
def test_no_more_of_a_large_file_is_read_than_is_wanted(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The end of these files would be refused."""
    monkeypatch.setattr(calibration_text, "REACH", 20_000)
    monkeypatch.setattr("qtoolkit.texts.text_bytes.BLOCK", 10_000)
    head = TEXT.encode() if broken.endswith(".txt") else _jsonl(tmp_path).read_bytes()
    (tmp_path / broken).write_bytes(head * 3 + b"\0")
    check_texts(tmp_path / broken, "calibration")
    sample = load(tmp_path / broken, tokenizer)
    assert sample.notes[0].endswith(f"tokens of {broken} (256 of its first 20,000 tokens, evenly spread)")
    with pytest.raises(ConfigError, match="binary"):
        load(tmp_path / broken, tokenizer, num_samples=100_000)


def test_a_stream_is_read_from_its_beginning(tokenizer: Any) -> None:
    taken = 0

    def rows() -> Any:
        nonlocal taken
        for text in DOCUMENTS:
            taken += 1
            yield {"text": text}

    stream = datasets.IterableDataset.from_generator(rows)
    check_texts(stream, "calibration")
    assert taken == 0
    sample = load(stream, tokenizer)
    beginning = tokenizer(DOCUMENTS[0], add_special_tokens=False)["input_ids"][:256]
    assert sample.tokens.flatten().tolist() == beginning
    assert sample.notes[0] == "calibrated with 4 samples of 64 tokens of IterableDataset (its first 256 tokens)"
    assert taken < len(DOCUMENTS)


def test_a_stream_that_breaks_is_told(tokenizer: Any) -> None:
    def rows() -> Any:
        yield {"text": "a"}
        raise RuntimeError("the disk is gone\nat line 3")

    with pytest.raises(SourceError, match=r"the Dataset cannot be read \(.*\): try list\(dataset\)$") as caught:
        load(datasets.IterableDataset.from_generator(rows), tokenizer)
    assert "\n" not in str(caught.value)


@given(st.lists(st.text(alphabet="ab \n", max_size=30)), st.integers(1, 12))
def test_pieces_are_the_text_again(strings: list[str], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PIECE", size)
        pieces = list(cut(strings))
    assert "".join(pieces) == "".join(strings)
    assert all(1 <= len(piece) <= size for piece in pieces)
    for piece, following in pairwise(pieces):
        # Cut between words, unless the piece is one word.
        assert piece.endswith("\n") or following.startswith(" ") or not set(piece[1:]) & set(" \n")
