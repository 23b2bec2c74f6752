"""Text that cannot be used is refused before work starts: one line that says what is wrong and what to do."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from qtoolkit.errors import ConfigError, MissingDependencyError, QToolkitError
from qtoolkit.texts.calibration_sources import check_calibration
from qtoolkit.texts.texts import check_texts
from tests.texts.calibration_texts import TEXT, load

ALLOWED = (
    "calibration must be 'wikitext2', 'c4', 'self', a file that exists (.txt, .md, .raw, .json, .jsonl, .csv, .tsv, "
    ".parquet; .gz behind all but .parquet), a folder of them, a list of texts or of chats, or a Dataset, got "
)


def refusal(value: Any, kind: type[QToolkitError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        check_texts(value, "calibration")
    assert type(caught.value) is kind
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        pytest.param("wikitext", "'wikitext'", id="no such name"),
        pytest.param("", "''", id="empty name"),
        pytest.param("some words\n" * 1000, "a text of 11,000 characters: put it into a list", id="the text itself"),
        pytest.param("a\0b", r"'a\x00b'", id="impossible name"),
        pytest.param("~nobody-here/a.txt", "'~nobody-here/a.txt'", id="home of nobody"),
        pytest.param(Path("no/such/file.txt"), "'no/such/file.txt'", id="no such file"),
        pytest.param(None, "NoneType", id="None"),
        pytest.param(128, "int", id="number"),
        pytest.param(b"bytes", "bytes", id="bytes"),
        pytest.param((text for text in ["a"]), "generator", id="generator"),
    ],
)
def test_what_is_no_text(value: Any, got: str) -> None:
    assert refusal(value) == ALLOWED + got


@pytest.mark.parametrize("value", ["wikitext2", "c4", "self", [TEXT], (TEXT,)], ids=str)
def test_what_is_text(value: Any) -> None:
    check_texts(value, "calibration")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param([], "an empty list: give texts, a file, or 'self'", id="empty list"),
        pytest.param(["", " \n"], "only empty texts: give texts, a file, or 'self'", id="empty texts"),
        pytest.param(["a", 1], "item 2 of the list must be a text, got int", id="number"),
        pytest.param([["a"]], "item 1 of the list must be a text, got list", id="lists"),
        pytest.param([b"a"], "item 1 of the list must be a text, got bytes", id="bytes"),
        pytest.param(["a", {"text": "a"}], "item 2 of the list must be a text, got dict", id="a row after a text"),
        pytest.param(
            ["ab\udc80"],
            "item 1 of the list holds half a character at 2 (a lone surrogate): decode it again with errors='replace'",
            id="lone surrogate",
        ),
    ],
)
def test_a_list_of_something_else(value: Any, told: str) -> None:
    assert refusal(value) == f"text: {told}"


def _parquet_bytes(**columns: list[Any]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


LINE = 'write one object a line, such as {"text": "..."}'
EMPTY = "is empty: name another file, or 'self'"
FILES = {
    "empty": ("a.txt", b"", EMPTY),
    "blank": ("a.txt", b" \r\n\t\n", EMPTY),
    "only a byte order mark": ("a.txt", b"\xef\xbb\xbf", EMPTY),
    "blank lines": ("a.jsonl", b"\n\n", EMPTY),
    "zero bytes": ("a.txt", b"MZ\x90"[:2] + b"\0\1", "is binary (a zero byte at 2): name a text file"),
    "UTF-16": ("a.txt", "text".encode("utf-16-le"), "is binary (a zero byte at 1): name a text file"),
    "Latin-1": ("a.txt", "Köln".encode("latin-1"), "is binary or not in UTF-8 (byte 0xf6 near 1): name a text"),
    "half a character": ("a.txt", "ö".encode()[:1], "is binary or not in UTF-8 (byte 0xc3 near "),
    "gzip": ("a.jsonl", b"\x1f\x8b\x08\x00", "is binary (a zero byte at 3): name a text file"),
    "other kind": ("a.xml", b"text\na", "is of no known kind: it must end in .txt, .md, .raw, .json, .jsonl, .csv, "),
    "no kind": ("a", b"text", "is of no known kind: it must end in .txt, .md, .raw, .json, .jsonl, .csv, "),
    "Parquet in gzip": ("a.parquet.gz", b"text", "is of no known kind: it must end in .txt, "),
    "no JSON": ("a.jsonl", b"secret text", f"is no JSON (Expecting value: line 1 column 1 (char 0)): {LINE}"),
    "deep JSON": ("a.jsonl", b"[" * 100_000, "is no JSON ("),
    "JSON of something else": ("a.jsonl", b'["secret"]', "message 1 is no object, but str: write {"),
    "other keys": ("a.jsonl", b'{"a": "secret", "b": "secret"}', "has 2 columns of texts (a, b): name the one to use"),
    "number under the key": ("a.jsonl", b'{"text": 4711}', "has no column of texts (text): name the one to use text"),
    "no Parquet": ("a.parquet", b"secret text", "is no sound Parquet file ("),
    "cut Parquet": ("a.parquet", _parquet_bytes(text=["a"])[:-20], "is no sound Parquet file ("),
    "no column of texts": ("a.parquet", _parquet_bytes(n=[1]), "has no column of texts (n): name the one to use text"),
    "two columns of texts": ("a.parquet", _parquet_bytes(a=["a"], b=["b"]), "has 2 columns of texts (a, b): name the "),
    "no rows": ("a.parquet", _parquet_bytes(text=pa.array([], pa.string())), EMPTY),  # type: ignore[arg-type]
    "only nulls": ("a.parquet", _parquet_bytes(text=pa.array([None], pa.string())), EMPTY),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_without_text(tmp_path: Path, file: str) -> None:
    name, content, told = FILES[file]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert f"text file {tmp_path / name}" in message and told in message
    assert "secret" not in message
    assert "4711" not in message


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("About the data.")
    (tmp_path / "a.xml").write_text("text")
    assert refusal(tmp_path).startswith(f"text folder {tmp_path} holds no file that ends in .txt, ")
    (tmp_path / "b.txt").write_bytes(b"\0")
    assert refusal(tmp_path) == f"text file {tmp_path / 'b.txt'} is binary (a zero byte at 0): name a text file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.txt").chmod(0)
    assert refusal(tmp_path / "a.txt").endswith("cannot be read (Permission denied): check its permissions")


def test_a_line_far_down_is_told_by_its_number(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b"\n')
    check_texts(tmp_path / "a.jsonl", "calibration")
    with pytest.raises(ConfigError, match=r"^line 3 of text file .*a\.jsonl is no JSON \(Expecting ',' "):
        load(tmp_path / "a.jsonl", tokenizer)


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        pytest.param(
            datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}),
            "a DatasetDict holds several Datasets: give one of them ('train')",
            id="splits",
        ),
        pytest.param(datasets.Dataset.from_dict({"text": []}), "the Dataset has no rows: give another", id="no rows"),
        pytest.param(
            datasets.Dataset.from_dict({"n": [1]}), "the Dataset has no column of texts (n): name", id="no texts"
        ),
        pytest.param(
            datasets.Dataset.from_dict({"text": [1]}), "the Dataset has no column of texts (text): name", id="numbers"
        ),
    ],
)
def test_a_dataset_without_text(dataset: Any, told: str) -> None:
    assert told in refusal(dataset)


@pytest.mark.parametrize("name", ["wikitext2", "c4"])
def test_the_package_that_streams_it_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(name, MissingDependencyError) == (
        f"text '{name}' needs the package datasets, which is not installed: run `pip install 'datasets>=4.0'`"
    )


def test_the_package_that_reads_parquet_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(_parquet_bytes(text=["a"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(tmp_path / "a.parquet", MissingDependencyError) == (
        "reading a.parquet needs the package pyarrow, which is not installed: run `pip install 'pyarrow>=18.1'`"
    )


def test_a_text_that_makes_no_sample(tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(["one two " * 25], tokenizer)
    assert str(caught.value) == (
        "calibration: 1 text makes 51 tokens, and one sample takes 64: give seq_len=51, a longer text, or "
        "calibration='self'"
    )
    with pytest.raises(ConfigError, match="makes 2 tokens, and one sample takes 64: give a longer text, or"):
        load(["one two"], tokenizer)
    assert load(["one two " * 25], tokenizer, seq_len=51).tokens.shape == (1, 51)


def test_no_tokenizer() -> None:
    with pytest.raises(ConfigError, match=r"read with the model's tokenizer, and there is none: give tokenizer=$"):
        load([TEXT], None)


def test_the_tokenizer_of_another_model(tokenizer: Any) -> None:
    largest = int(load([TEXT], tokenizer).tokens.max())
    assert load([TEXT], tokenizer, vocab_size=largest + 1).tokens.max() == largest
    told = f"makes token {largest} of the text, and the model knows 0 to {largest - 1}: give the model's"
    with pytest.raises(ConfigError, match=told):
        load([TEXT], tokenizer, vocab_size=largest)


def test_an_empty_name_of_a_column_is_refused() -> None:
    with pytest.raises(ConfigError, match="calibration_column is empty: name a column, or leave it out"):
        check_calibration("a.jsonl", "")
