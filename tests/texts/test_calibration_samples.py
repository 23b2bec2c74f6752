"""Samples are windows of the text, of one length, evenly spread over it; what was decided is told, the text is not."""

import hashlib
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from qtoolkit.errors import ConfigError, JobCancelled
from qtoolkit.records import ProgressEvent
from tests.texts.calibration_texts import DOCUMENTS, TEXT, load, tokens_of


def starts(rows: torch.Tensor, text: list[int]) -> list[int]:
    """Where each row stands in the text."""
    found = [[at for at in range(len(text)) if text[at : at + len(row)] == row] for row in rows.tolist()]
    assert all(len(places) == 1 for places in found)
    return [places[0] for places in found]


@pytest.mark.parametrize("num_samples", [1, 2, 7, 16])
def test_samples_are_spread_evenly_over_the_text(tokenizer: Any, num_samples: int) -> None:
    text = tokens_of(tokenizer, TEXT[:80_000])
    sample = load([TEXT[:80_000]], tokenizer, num_samples=num_samples, seq_len=96)
    assert sample.tokens.shape == (num_samples, 96)
    assert sample.tokens.dtype is torch.int64
    places = starts(sample.tokens, text)
    expected = [len(text) * index / num_samples for index in range(num_samples)]
    assert places == sorted(places)
    assert all(abs(place - wanted) <= 2 * 96 for place, wanted in zip(places, expected, strict=True))
    assert all(later - earlier >= 96 for earlier, later in pairwise(places))


def test_the_note_counts_samples_and_tokens(tokenizer: Any) -> None:
    total = len(tokens_of(tokenizer, TEXT[:50_000]))
    (note,) = load([TEXT[:50_000]], tokenizer).notes
    assert note == f"calibrated with 4 samples of 64 tokens of 1 text (256 of {total:,} tokens, evenly spread)"


def test_a_text_with_fewer_samples_gives_those_that_it_has(tokenizer: Any) -> None:
    text = tokens_of(tokenizer, DOCUMENTS[0])
    sample = load([DOCUMENTS[0]], tokenizer, num_samples=10_000)
    whole = len(text) // 64
    assert sample.tokens.flatten().tolist() == text[: 64 * whole]
    assert f"{whole} samples instead of 10000: that is all of 1 text" in sample.notes


def test_a_model_that_reads_less_gets_shorter_samples(tokenizer: Any) -> None:
    sample = load([TEXT[:50_000]], tokenizer, max_seq_len=48)
    assert sample.tokens.shape == (4, 48)
    assert "samples of 48 tokens instead of 64, the most that the model reads" in sample.notes
    assert load([TEXT[:50_000]], tokenizer, max_seq_len=64).notes == load([TEXT[:50_000]], tokenizer).notes


def test_documents_are_joined_by_the_end_of_text(tokenizer: Any) -> None:
    short = [document[:30] for document in DOCUMENTS[:12]]
    joined: list[int] = []
    for document in short:
        joined += [tokenizer.eos_token_id] * bool(joined) + tokens_of(tokenizer, document)
    sample = load(["", *short, ""], tokenizer, num_samples=1, seq_len=len(joined))
    assert sample.tokens.tolist() == [joined]
    assert f"12 documents joined by {tokenizer.eos_token}" in sample.notes


def test_a_tokenizer_without_end_of_text_joins_documents_as_they_are(smollm2: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.eos_token = None
    joined = tokens_of(tokenizer, "one two") + tokens_of(tokenizer, "three four")
    sample = load(["one two", "three four"], tokenizer, num_samples=1, seq_len=len(joined))
    assert sample.tokens.tolist() == [joined]
    assert "2 documents joined as they are: the tokenizer has no end-of-text token" in sample.notes


def test_each_sample_begins_as_the_tokenizer_begins_every_text(with_bos: Any) -> None:
    text = tokens_of(with_bos, TEXT[:50_000])
    sample = load([TEXT[:50_000]], with_bos)
    assert sample.tokens.shape == (4, 64)
    assert sample.tokens[:, 0].tolist() == [with_bos.bos_token_id] * 4
    assert len(starts(sample.tokens[:, 1:], text)) == 4
    assert "each sample begins with <|im_start|>, as this tokenizer begins every text" in sample.notes


def test_a_sample_has_room_for_text_after_its_beginning(with_bos: Any) -> None:
    assert load([TEXT[:1000]], with_bos, seq_len=2).tokens.shape == (4, 2)
    with pytest.raises(ConfigError, match="seq_len must be at least 2 with this tokenizer, got 1"):
        load([TEXT[:1000]], with_bos, seq_len=1)


def test_the_fingerprint_is_that_of_tokens_and_shape(tokenizer: Any) -> None:
    first, again = load([TEXT[:50_000]], tokenizer), load([TEXT[:50_000]], tokenizer)
    assert first == again
    numbers = b"".join(token.to_bytes(8, "little") for token in first.tokens.flatten().tolist())
    assert first.fingerprint == hashlib.sha256(b"[4, 64]" + numbers).hexdigest()
    assert load([TEXT[1:50_000]], tokenizer).fingerprint != first.fingerprint
    assert load([TEXT[:50_000]], tokenizer, num_samples=2, seq_len=128) != first


def test_neither_text_nor_tokens_are_shown(tokenizer: Any) -> None:
    sample = load(["Xylophon-Quartz 4711 " * 300], tokenizer)
    shown = repr(sample) + str(sample)
    assert "Xylophon" not in shown
    assert "4711" not in shown
    assert "tensor" not in shown
    assert sample.name == "1 text"


def test_reading_is_reported_and_can_be_stopped(tokenizer: Any) -> None:
    events: list[ProgressEvent] = []
    load(DOCUMENTS, tokenizer, on_progress=events.append)
    assert {event.phase for event in events} == {"calibrate"}
    separators = len(DOCUMENTS) - 1
    assert events[-1].done == sum(len(tokens_of(tokenizer, text)) for text in DOCUMENTS) + separators
    assert (events[-1].unit, events[-1].detail) == ("tokens", "40 texts")

    def stop(_event: ProgressEvent) -> None:
        raise JobCancelled

    with pytest.raises(JobCancelled):
        load(DOCUMENTS, tokenizer, on_progress=stop)
