"""Quality is measured on the split of wikitext2 and c4 that nothing is calibrated on."""

import gzip
import io
import json
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from qtoolkit.errors import SourceError
from qtoolkit.records import ignore_progress
from qtoolkit.texts.windows import load_windows
from tests.fake_hub.datasets import DatasetHub
from tests.texts.calibration_texts import DOCUMENTS, TEXT, tokens_of

FILES = {
    "wikitext2": ("datasets/Salesforce/wikitext", "wikitext-2-raw-v1/{}-00000-of-00001.parquet", "train", "test"),
    "c4": ("datasets/allenai/c4", "en/c4-{}.json.gz", "train.00000-of-01024", "validation.00000-of-00008"),
}


def stored(name: str, texts: list[str]) -> bytes:
    if name == "c4":
        return gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_the_held_out_split_is_read(dataset_hub: DatasetHub, smollm2: Path, name: str) -> None:
    repo_id, pattern, training, held_out = FILES[name]
    lines = TEXT[:20_000].split("\n") if name == "wikitext2" else DOCUMENTS[:3]
    files = {training: ["Never to be seen."] * 50, held_out: lines}
    dataset_hub.add(repo_id, {pattern.format(split): stored(name, texts) for split, texts in files.items()})
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    windows = load_windows(
        name,
        tokenizer,
        seq_len=64,
        num_tokens=640,
        stride=None,
        max_seq_len=None,
        vocab_size=49152,
        on_progress=ignore_progress,
    )
    first = "".join(f"{line}\n\n" for line in lines) if name == "wikitext2" else lines[0]
    assert windows.tokens.flatten().tolist()[:200] == tokens_of(tokenizer, first)[:200]
    assert windows.name == name and any(pattern.format(held_out) in note for note in windows.notes)


def test_a_token_is_sent_and_never_shown(dataset_hub: DatasetHub, smollm2: Path) -> None:
    repo_id, pattern, _, held_out = FILES["c4"]
    dataset_hub.add(repo_id, {pattern.format(held_out): stored("c4", DOCUMENTS[:3])})
    dataset_hub.repositories[repo_id].private = True
    dataset_hub.tokens = {"hf_secret"}
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    load = partial(
        load_windows,
        "c4",
        tokenizer,
        seq_len=64,
        num_tokens=640,
        stride=None,
        max_seq_len=None,
        vocab_size=49152,
        on_progress=ignore_progress,
    )
    windows = load(token="hf_secret")  # noqa: S106
    assert {request.token for request in dataset_hub.requests} == {"hf_secret"}
    assert "hf_secret" not in repr(windows)
    with pytest.raises(SourceError) as caught:
        load(token="hf_wrong")  # noqa: S106
    assert "hf_wrong" not in str(caught.value)
