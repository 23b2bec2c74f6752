"""Windows begin where they should, each token is predicted once, and what cannot be cut is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.errors import ConfigError
from qtoolkit.records import ignore_progress
from qtoolkit.requests import TextOptions
from qtoolkit.texts.texts import check_texts
from qtoolkit.texts.windows import Windows, load_windows
from tests.texts.calibration_texts import DOCUMENTS, TEXT, tokens_of

TEXTS = [TEXT[:9000]]


def load(value: Any, tokenizer: Any, **changes: Any) -> Windows:
    options = {"seq_len": 32, "num_tokens": 320, "stride": None, "max_seq_len": None, "vocab_size": 49152}
    return load_windows(value, tokenizer, **(options | {"on_progress": ignore_progress} | changes))


def predicted(windows: Windows) -> list[int]:
    """The tokens that are predicted, window by window."""
    pairs = zip(windows.tokens.tolist(), windows.first, strict=True)
    return [token for row, first in pairs for token in row[first:]]


def test_windows_follow_one_another_from_the_beginning(tokenizer: Any) -> None:
    windows = load(TEXTS, tokenizer)
    text = tokens_of(tokenizer, TEXTS[0])
    assert windows.tokens.dtype is torch.int64
    assert windows.tokens.flatten().tolist() == text[:320]
    assert windows.first == (1,) * 10 and windows.num_predicted == 310
    assert windows.stride == 32 and windows.begins_with == "" and windows.notes == ()


@pytest.mark.parametrize("stride", [1, 7, 16, 31])
def test_overlapping_windows_predict_each_token_once(tokenizer: Any, stride: int) -> None:
    windows = load(TEXTS, tokenizer, stride=stride)
    text = tokens_of(tokenizer, TEXTS[0])
    count = (320 - 32) // stride + 1
    assert predicted(windows) == text[1 : 32 + (count - 1) * stride]


def test_a_window_begins_with_what_the_tokenizer_puts_before_a_text(tokenizer: Any, with_bos: Any) -> None:
    windows = load(TEXTS, with_bos)
    text = tokens_of(tokenizer, TEXTS[0])
    assert windows.begins_with == "<|im_start|>"
    assert set(windows.tokens[:, 0].tolist()) == {with_bos.bos_token_id}
    # No token of the text is lost to the beginning of a window.
    assert predicted(windows) == text[: 31 * 10]


@pytest.mark.parametrize("stride", [8, 31])
def test_overlapping_windows_with_a_beginning_predict_each_token_once(with_bos: Any, stride: int) -> None:
    windows = load(TEXTS, with_bos, stride=stride)
    count = (320 - 31) // stride + 1
    assert predicted(windows) == tokens_of(with_bos, TEXTS[0])[: 31 + (count - 1) * stride]


def test_documents_are_joined_and_a_short_text_is_told(tokenizer: Any) -> None:
    windows = load(DOCUMENTS[:2], tokenizer, num_tokens=10**6)
    joined = [*tokens_of(tokenizer, DOCUMENTS[0]), tokenizer.eos_token_id, *tokens_of(tokenizer, DOCUMENTS[1])]
    assert windows.tokens.flatten().tolist() == joined[: len(joined) // 32 * 32]
    assert windows.notes == (
        "2 documents joined by <|im_end|>",
        f"{len(joined):,} tokens instead of 1,000,000: that is all of 2 texts",
    )


def test_the_fingerprint_is_that_of_the_tokens(tokenizer: Any) -> None:
    assert load(TEXTS, tokenizer).fingerprint == load(TEXTS, tokenizer).fingerprint
    assert load(TEXTS, tokenizer).fingerprint != load([TEXT[1:9000]], tokenizer).fingerprint


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seq_len": 1}, "seq_len must be at least 2"),
        ({"num_tokens": 31}, "num_tokens must be at least seq_len, 32, got 31"),
        ({"stride": 0}, "stride must lie between 1 and seq_len, 32, got 0"),
        ({"stride": 33}, "stride must lie between 1 and seq_len, 32, got 33"),
        ({"text": []}, "text: an empty list"),
        ({"text": "nowhere.txt"}, "text must be 'wikitext2', 'c4', 'self', a file that exists"),
        ({"text": 5}, "text must be .* got int"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_cut_is_refused_before_any_work(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_texts(TextOptions(**({"text": TEXTS, "seq_len": 32, "num_tokens": 320} | changes)).text, "text")


def test_a_mistyped_file_is_told_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a text")
    with pytest.raises(ConfigError, match=r"got '.*boook.txt': did you mean book.txt\?$"):
        check_texts(str(tmp_path / "boook.txt"), "text")
    with pytest.raises(ConfigError, match=r"nowhere/book.txt'$"):
        check_texts(str(tmp_path / "nowhere/book.txt"), "text")


@pytest.mark.parametrize(
    ("value", "changes", "told"),
    [
        (["one two three"], {}, "makes 3 tokens, and one window takes 32: give a longer text, or a smaller seq_len"),
        (TEXTS, {"max_seq_len": 16}, "seq_len must be at most 16, the most that the model reads, got 32"),
        (TEXTS, {"vocab_size": 100}, "and the model knows 0 to 99"),
    ],
    ids=["short text", "short model", "other model"],
)
def test_text_that_does_not_go_with_the_model_is_refused(
    tokenizer: Any, value: Any, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load(value, tokenizer, **changes)


def test_without_a_tokenizer_nothing_is_read() -> None:
    with pytest.raises(ConfigError, match="give tokenizer="):
        load(TEXTS, None)
