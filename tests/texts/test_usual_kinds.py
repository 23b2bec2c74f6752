"""Each usual kind of calibration data gives the tokens that the tokenizer itself makes of it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from qtoolkit.texts.calibration_sources import check_calibration
from tests.texts.calibration_texts import DOCUMENTS, load, tokens_of

QUESTIONS = [f"What does Python say about topic {number}?" for number in range(12)]
ANSWERS = [document[:300] for document in DOCUMENTS[:12]]
PAIRS = list(zip(QUESTIONS, ANSWERS, strict=True))
CHATS = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
SHAREGPT = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in PAIRS]
PARTS = [[{**one, "content": [{"type": "text", "text": one["content"]}]} for one in chat] for chat in CHATS]
MESSAGES: list[dict[str, Any]] = [{"messages": chat} for chat in CHATS]


def rows(*names: str) -> list[dict[str, Any]]:
    """Rows with a question and an answer under these names, and a column that nobody needs."""
    return [{"id": number, **dict(zip(names, pair, strict=True))} for number, pair in enumerate(PAIRS)]


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def stored(name: str, content: str | bytes) -> Callable[[Path], Path]:
    """Write a file, compressed if its name says so."""

    def write(folder: Path) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
        return folder / name

    return write


def table(name: str, values: list[dict[str, Any]]) -> Callable[[Path], Path]:
    """Write a .csv, .tsv or .parquet file with another program."""

    def write(folder: Path) -> Path:
        if name.endswith(".parquet"):
            parquet.write_table(pa.Table.from_pylist(values), folder / name, row_group_size=5)
        else:
            pd.DataFrame(values).to_csv(folder / name, sep="\t" if ".tsv" in name else ",", index=False)
        return folder / name

    return write


def folder_of(*writers: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        inner = folder / "data"
        (inner / "deeper").mkdir(parents=True)
        (inner / "README.md").write_text("Not to be read.")
        (inner / "picture.png").write_bytes(b"\x89PNG\0")
        (inner / ".hidden.txt").write_text("Not to be read.")
        for writer in writers:
            writer(inner)
        return inner

    return write


def given(value: Any) -> Callable[[Path], Any]:
    return lambda _: value


CHAT_KINDS: dict[str, Callable[[Path], Any]] = {
    "list of rows with messages": given(MESSAGES),
    "list of conversations": given(CHATS),
    "messages .jsonl": stored("a.jsonl", lines(MESSAGES)),
    "messages .json": stored("a.json", json.dumps(MESSAGES, indent=1)),
    "messages .json under data": stored("a.json", json.dumps({"version": 1, "data": MESSAGES})),
    "messages .json, one object a line": stored("a.json", lines(MESSAGES)),
    "messages .jsonl.gz": stored("a.jsonl.gz", lines(MESSAGES)),
    "messages .json.gz": stored("a.json.gz", json.dumps(MESSAGES)),
    "messages .parquet": table("a.parquet", MESSAGES),
    "messages .csv, as JSON": table("a.csv", [{"messages": json.dumps(chat)} for chat in CHATS]),
    "messages Dataset": given(datasets.Dataset.from_list(MESSAGES)),
    "messages in UTF-16": stored("a.jsonl", lines(MESSAGES).encode("utf-16")),
    "messages with a byte order mark": stored("a.json", json.dumps(MESSAGES).encode("utf-8-sig")),
    "conversations .json without rows": stored("a.json", json.dumps(CHATS)),
    "content in parts": given([{"messages": chat} for chat in PARTS]),
    "content in parts, Dataset": given(datasets.Dataset.from_list([{"messages": chat} for chat in PARTS])),
    "ShareGPT .json": stored("a.json", json.dumps([{"id": "a", "conversations": chat} for chat in SHAREGPT])),
    "ShareGPT .parquet": table("a.parquet", [{"conversations": chat} for chat in SHAREGPT]),
    "conversations with roles": stored("a.jsonl", lines([{"conversations": chat} for chat in CHATS])),
    "conversation": stored("a.jsonl", lines([{"conversation": chat} for chat in CHATS])),
    "Alpaca .json": stored("a.json", json.dumps([{**row, "input": ""} for row in rows("instruction", "output")])),
    "Alpaca Dataset": given(datasets.Dataset.from_list([{**r, "input": ""} for r in rows("instruction", "output")])),
    "Dolly .jsonl": stored("a.jsonl", lines([{**row, "context": None} for row in rows("instruction", "response")])),
    "prompt and completion .jsonl": stored("a.jsonl", lines(rows("prompt", "completion"))),
    "prompt and completion as messages": given([{"prompt": chat[:1], "completion": chat[1:]} for chat in CHATS]),
    "prompt and response .csv": table("a.csv", rows("prompt", "response")),
    "question and answer .tsv": table("a.tsv", rows("question", "answer")),
    "question and answer .csv.gz": table("a.csv.gz", rows("question", "answer")),
    "query and response": given(rows("query", "response")),
    "problem and solution": given(rows("problem", "solution")),
    "folder of .jsonl": folder_of(
        stored("a.jsonl", lines(MESSAGES[:5])), stored("deeper/b.jsonl.gz", lines(MESSAGES[5:]))
    ),
}


@pytest.mark.parametrize("kind", CHAT_KINDS)
def test_chats_are_written_by_the_template(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    value = CHAT_KINDS[kind](tmp_path)
    check_calibration(value)
    expected = [
        token for chat in CHATS for token in tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    ]
    sample = load(value, tokenizer, num_samples=1, seq_len=len(expected))
    assert sample.tokens.flatten().tolist() == expected
    assert any(note.endswith("written by the tokenizer's chat template") for note in sample.notes)


TEXTS = [{"text": answer} for answer in ANSWERS]
TEXT_KINDS: dict[str, Callable[[Path], Any]] = {
    "list of rows": given(TEXTS),
    "list of rows with content": given([{"id": "a", "content": answer} for answer in ANSWERS]),
    "content .jsonl": stored("a.jsonl", lines([{"id": "a", "content": answer} for answer in ANSWERS])),
    ".json": stored("a.json", json.dumps(TEXTS)),
    ".json of texts": stored("a.json", json.dumps(ANSWERS)),
    ".jsonl of texts": stored("a.jsonl", lines(ANSWERS)),
    ".json.gz, one object a line": stored("a.json.gz", lines(TEXTS)),
    ".csv": table("a.csv", TEXTS),
    ".csv with several columns": table("a.csv", [{"id": 1, "url": "u", **row} for row in TEXTS]),
    ".tsv.gz": table("a.tsv.gz", TEXTS),
    "UTF-16 .csv": stored("a.csv", pd.DataFrame(TEXTS).to_csv(index=False).encode("utf-16")),
    "UTF-32 .jsonl": stored("a.jsonl", lines(TEXTS).encode("utf-32")),
    "folder of .txt": folder_of(*(stored(f"{n:02}.txt", answer) for n, answer in enumerate(ANSWERS))),
    "folder of several kinds": folder_of(
        stored("a.txt.gz", ANSWERS[0]), table("b.csv", TEXTS[1:6]), table("c.parquet", TEXTS[6:])
    ),
}


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_texts_are_joined_as_those_of_a_list(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    value = TEXT_KINDS[kind](tmp_path)
    check_calibration(value)
    expected: list[int] = []
    for answer in ANSWERS:
        expected += [tokenizer.eos_token_id] * bool(expected) + tokens_of(tokenizer, answer)
    sample = load(value, tokenizer, num_samples=1, seq_len=len(expected))
    assert sample.tokens.flatten().tolist() == expected


ONE_TEXT: dict[str, Callable[[Path], Any]] = {
    ".txt.gz": stored("a.txt.gz", DOCUMENTS[0]),
    ".md.gz": stored("a.MD.GZ", DOCUMENTS[0]),
    "UTF-16 .txt, as Windows writes it": stored("a.txt", DOCUMENTS[0].encode("utf-16")),
    "UTF-16, big end first": stored("a.txt", "\ufeff".encode("utf-16-be") + DOCUMENTS[0].encode("utf-16-be")),
    "one object": stored("a.json", json.dumps({"text": DOCUMENTS[0]}, indent=1)),
}


@pytest.mark.parametrize("kind", ONE_TEXT)
def test_one_text(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    value = ONE_TEXT[kind](tmp_path)
    monkeypatch.setattr("qtoolkit.texts.text_bytes.BLOCK", 777)
    check_calibration(value)
    assert load(value, tokenizer).fingerprint == load([DOCUMENTS[0]], tokenizer).fingerprint


IDS = [[(7 * row + column) % 1000 for column in range(64)] for row in range(4)]
ID_KINDS: dict[str, Any] = {
    "lists": IDS,
    "tuples": tuple(map(tuple, IDS)),
    "tensor": torch.tensor(IDS),
    "int32 array": np.array(IDS, np.int32),
    "uint16 array": np.array(IDS, np.uint16),
    "list of tensors": [torch.tensor([row]) for row in IDS],
    "list of arrays": list(np.array(IDS)),
    "rows of tokenizers": [{"input_ids": row, "attention_mask": [1] * 64} for row in IDS],
    "rows of tokenizers, tensors": [{"input_ids": torch.tensor([row])} for row in IDS],
    "Dataset": datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in IDS]),
    "Dataset as tensors": datasets.Dataset.from_list([{"input_ids": row} for row in IDS]).with_format("torch"),
}


@pytest.mark.parametrize("kind", ID_KINDS)
def test_token_ids_are_the_samples(with_bos: Any, kind: str) -> None:
    check_calibration(ID_KINDS[kind])
    sample = load(ID_KINDS[kind], with_bos)
    assert sample.tokens.tolist() == IDS
    assert (sample.tokens.dtype, sample.notes) == (
        torch.int64,
        ("calibrated with 4 samples of 64 tokens of 4 rows of token ids, as they are",),
    )


def test_samples_of_token_ids_are_cut_and_counted() -> None:
    sample = load(IDS, None, num_samples=2, seq_len=50)
    assert sample.tokens.tolist() == [row[:50] for row in IDS[:2]]
    assert "the first 50 of 64 tokens of each row" in sample.notes
    sample = load(IDS, None, num_samples=9, seq_len=512)
    assert sample.tokens.tolist() == IDS
    assert "4 samples instead of 9: that is all of 4 rows of token ids" in sample.notes
    assert "samples of 64 tokens instead of 512, as they are given" in sample.notes


COLUMNS: dict[str, Callable[[Path], Any]] = {
    "list": given([{"text": "no", "dialog": chat} for chat in CHATS]),
    ".jsonl": stored("a.jsonl", lines([{"text": "no", "dialog": chat} for chat in SHAREGPT])),
    ".parquet": table("a.parquet", [{"text": "no", "dialog": chat} for chat in CHATS]),
    "Dataset": given(datasets.Dataset.from_list([{"text": "no", "dialog": chat} for chat in CHATS])),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_chats_is_chosen(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    value = COLUMNS[kind](tmp_path)
    check_calibration(value, "dialog")
    assert load(value, tokenizer, column="dialog").fingerprint == load(CHATS, tokenizer).fingerprint


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_of_texts_is_chosen(tokenizer: Any, tmp_path: Path, name: str) -> None:
    value = table(name, [{"text": "no", "prompt": "no", "completion": "no", "body": a} for a in ANSWERS])(tmp_path)
    check_calibration(value, "body")
    assert load(value, tokenizer, column="body").fingerprint == load(ANSWERS, tokenizer).fingerprint
