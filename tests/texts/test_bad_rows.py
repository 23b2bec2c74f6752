"""Rows, chats, tables and token ids that cannot be used are refused in one line that says where and what to do."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from qtoolkit.errors import ConfigError
from qtoolkit.texts.calibration_sources import check_calibration
from tests.texts.calibration_texts import TEXT, load

USER = {"role": "user", "content": "secret"}
CHAT = [USER, {"role": "assistant", "content": "secret"}]


def refusal(value: Any, column: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        check_calibration(value, column)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "secret" not in message
    return message


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": []}, "has no messages: remove it"),
        ({"messages": "secret"}, "has no list of messages, but str: give messages such as {"),
        ({"messages": None}, "has no list of messages, but NoneType"),
        ({"messages": ["secret"]}, "message 1 is no object, but str: write {"),
        ({"messages": [USER, {"role": "assistant"}]}, "message 2 has no content: write {"),
        ({"messages": [{"content": "secret"}]}, "message 1 has no role: write {"),
        ({"messages": [{"role": 5, "content": "secret"}]}, "message 1 has no role: write {"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 1 has no text as its content, but int"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "secret"}]}]},
            "message 1 has a part that is no text (image): remove the row",
        ),
        ({"prompt": "secret", "completion": None}, "has no text under completion, but NoneType: remove the row"),
        ({"instruction": " ", "output": "secret"}, "has an empty text under instruction: remove the row"),
        (USER, "is one message, not a conversation: give each conversation as a list of its own"),
        ({"a": "secret", "b": "secret"}, "has 2 columns of texts (a, b): name the one to use text, or calibrate with"),
        ({"n": 1}, "has no column of texts (n): name the one to use text, or calibrate with calibration_column="),
    ],
)
def test_a_row_that_holds_no_text_or_chat(row: Any, told: str, tmp_path: Path) -> None:
    assert f"text: item 1 of the list {told}" in refusal([row]).replace("list: m", "list m")
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert f"line 1 of text file {tmp_path / 'a.jsonl'} {told}" in refusal(tmp_path).replace("l: m", "l m")


MIXED = [
    ([{"text": "a"}, {"content": "secret"}], "has no text, which those before it have; it has content: give one kind"),
    ([{"messages": CHAT}, {"text": "secret"}], "has no messages, which those before it have; it has text"),
    ([{"text": "a"}, {"text": 5}], "has no text under text, but int: give one kind"),
    ([{"text": "a"}, "secret"], "is str, and those before it have text: give one kind"),
    ([CHAT, "secret"], "is str, and those before it are messages: give one kind"),
    ([CHAT, {"messages": CHAT}], "is dict, and those before it are messages: give one kind"),
]


@pytest.mark.parametrize(("rows", "told"), MIXED)
def test_rows_of_several_kinds(rows: list[Any], told: str, tmp_path: Path, tokenizer: Any) -> None:
    assert f"text: item 2 of the list {told}" in refusal(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.json", tokenizer)
    assert f"row 2 of text file {tmp_path / 'a.json'} {told}" in str(caught.value)


def test_a_chat_without_a_template(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = None
    (tmp_path / "a.json").write_text(json.dumps([{"messages": CHAT}]))
    check_calibration(tmp_path / "a.json")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.json", tokenizer)
    assert str(caught.value) == (
        f"row 1 of text file {tmp_path / 'a.json'} is a chat, and the tokenizer has no chat template: give tokenizer= "
        "with one, or texts"
    )


def test_a_template_that_fails_names_the_row(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.chat_template = (
        "{% for one in messages %}{% if one.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{{ one.content }}{% endfor %}"
    )
    rows = [{"messages": CHAT}, {"messages": [{"role": "system", "content": "secret"}, *CHAT]}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "a.jsonl", tokenizer)
    assert str(caught.value) == (
        f"line 3 of text file {tmp_path / 'a.jsonl'}: the tokenizer's chat template cannot write it (System role not "
        "supported): correct the row, or remove it"
    )
    with pytest.raises(
        ConfigError, match=r"^text: row 2 of the Dataset: the tokenizer's chat template cannot write it"
    ):
        load(datasets.Dataset.from_list(rows), tokenizer)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    rows = [{"id": 1, "text": "secret", "a column with a name that is far too long": "secret"}]
    told = "has no column 'dialog': it has id, text, a column with a name tha"
    assert told in refusal(rows, "dialog")
    assert told in refusal(datasets.Dataset.from_list(rows), "dialog")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).to_csv(tmp_path / "b.csv")
    for name in ("a.parquet", "b.csv"):
        assert told in refusal(tmp_path / name, "dialog")


def test_a_column_of_what_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("secret")
    left = "leave out calibration_column='text'"
    assert refusal("wikitext2", "text") == f"calibration: 'wikitext2' has no columns to choose from: {left}"
    assert refusal("self", "text") == f"calibration: 'self' has no columns to choose from: {left}"
    assert refusal(["secret"], "text") == f"text: a list of texts has no columns: {left}"
    assert refusal([CHAT], "text") == f"text: item 1 of the list has no columns: {left}"
    assert refusal([[1, 2]], "text") == f"calibration: token ids have no columns: {left}"
    assert refusal(tmp_path / "a.txt", "text") == f"text file {tmp_path / 'a.txt'} has no columns: {left}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("one secret line\nanother", "whose first line names its columns, has no column of texts (one secre"),
        ("a,text\n1,x,y", "row 2 of text file {}: it has 3 values"),
        ("text,text\n1,2", "has columns without a name, or of one name: write a first line such as text"),
        ("text,\n1,2", "has columns without a name, or of one name"),
        ("", "is empty: name another file, or 'self'"),
        ("text\n", "is empty: name another file, or 'self'"),
    ],
)
def test_a_table_without_a_header_or_with_ragged_rows(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError) as caught:
        check_calibration(tmp_path / "a.csv")
    assert told.replace("{}: it", f"{tmp_path / 'a.csv'}") in str(caught.value)


def test_a_long_value_of_a_table_is_read_and_no_setting_stays_changed(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.csv").write_text('text\n"' + TEXT[:300_000].replace('"', "'") + '"\n')
    limit = csv.field_size_limit()
    assert (
        load(tmp_path / "a.csv", tokenizer).fingerprint
        == load([TEXT[:300_000].replace('"', "'")], tokenizer).fingerprint
    )
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt.gz", b"secret", "is no sound gzip file (Not a gzipped file"),
        ("a.txt.gz", gzip.compress(TEXT.encode(), mtime=0)[:2000], "is no sound gzip file (Compressed file ended"),
        ("a.txt.gz", gzip.compress(b"\0" * 100, mtime=0), "is binary (a zero byte at 0): name a text file"),
        ("a.txt", b"\xff\xfe\x00\xdca\0", "is binary or not in UTF-16 (byte 0x00 near "),
        ("a.json", b"[{", "row 1 of text file"),
        ("a.json", b"[" * 100_000, "row 1 of text file"),
        ("a.json", b'[{"text": "a"}'[:-1], "is no JSON (Expecting ',' delimiter"),
        ("a.json", b"[]", "is empty: name another file, or 'self'"),
        ("a.json", b'{"version": 1, "entries": [1]}', "has no column of texts (version, entries)"),
    ],
)  # fmt: skip
def test_a_broken_file(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert told in refusal(tmp_path / name)


def test_a_list_that_breaks_off_is_told_when_it_is_read_on(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}, {"text": "b"}])[:-1])
    check_calibration(tmp_path / "a.json")
    with pytest.raises(ConfigError, match=r"^row 3 of text file .*a\.json is no JSON \(Expecting value"):
        load(tmp_path / "a.json", tokenizer)


def test_a_file_that_expands_without_end_is_not_expanded(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtoolkit.texts.text_bytes._FREE", 1_000_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n" * 4_000_000))
    told = "expands to more than 100 times its size, which no text does: unpack it and look at it"
    assert refusal(tmp_path / "a.jsonl.gz").endswith(told)


def test_a_row_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("text_bytes", "json_rows", "text_files"):
        monkeypatch.setattr(f"qtoolkit.texts.{module}.MAX_ROW", 1000)
    monkeypatch.setattr("qtoolkit.texts.text_bytes.BLOCK", 100)
    # What is read to its end would be refused as binary.
    (tmp_path / "a.json").write_text('[{"text": "' + "x" * 5000 + "\0")
    assert refusal(tmp_path / "a.json").endswith("has more than 1000 characters: save it as .jsonl")
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 5000 + "\0")
    assert refusal(tmp_path / "a.jsonl").endswith("has more than 1000 characters: split it")
    (tmp_path / "a.csv").write_text('text\n"' + "x \n" * 5000)
    assert "is no sound table near line" in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([[1, 2], [3]], "token ids: rows of 1 to 2 tokens, and samples have one length: cut them, or give the texts"),
        ([[1, 2], "secret"], "token ids: row 2 is no list of numbers, but str: give one kind of rows"),
        (
            [[1, 2], [3, "secret"]],
            "token ids: row 2 holds str, and token ids are whole numbers: correct them, or give the texts",
        ),
        ([[1, 2.5]], "token ids: row 1 holds float, and token ids are whole numbers: correct them, or give the texts"),
        ([[1, 2**70]], "token ids: row 1 holds a number that is no token id: correct them, or give the texts"),
        ([[1, -100]], "token ids: row 1 must be at least 0, got -100: leave out the padding, or give the texts"),
        ([{"input_ids": [1]}, {"a": "secret"}], "token ids: row 2 has no input_ids: give one kind of rows"),
        (
            torch.ones(2, 3),
            "token ids must be whole numbers [samples, tokens], got float32 [2, 3]: correct them, or give the texts",
        ),
        (
            torch.ones(3, dtype=torch.int64),
            "token ids must be whole numbers [samples, tokens], got int64 [3]: correct them, or give",
        ),
        (np.zeros((0, 5), np.int64), "token ids must hold tokens, got none ([0, 5]): give more, or 'self'"),
        (
            np.array([[True]]),
            "token ids must be whole numbers [samples, tokens], got bool [1, 1]: correct them, or give the texts",
        ),
        (np.array([[2**63]], np.uint64), "token ids must be token ids, got 9223372036854775808: correct them, or give"),
        ([[1, np.float32(2.5)]], "token ids: row 1 holds float32, and token ids are whole numbers: correct them"),
        ([[1, np.bool_(True)]], "token ids: row 1 holds bool, and token ids are whole numbers: correct them"),
        (
            np.array([["secret"]]),
            "token ids must be whole numbers [samples, tokens], got <U6 [1, 1]: correct them, or give",
        ),
    ],
)
def test_what_is_no_token_ids(ids: Any, told: str) -> None:
    assert refusal(ids).startswith(told)


def test_token_ids_of_another_model() -> None:
    with pytest.raises(ConfigError) as caught:
        load([[1, 2, 49152]], None)
    assert str(caught.value) == (
        "calibration: the token ids go up to 49152, and the model knows 0 to 49151: make them with the model's own "
        "tokenizer"
    )


def test_a_dataset_of_ragged_token_ids() -> None:
    ragged = datasets.Dataset.from_list([{"input_ids": [1, 2]}, {"input_ids": [3]}])
    with pytest.raises(ConfigError, match="rows of 1 to 2 tokens, and samples have one length"):
        load(ragged, None)
