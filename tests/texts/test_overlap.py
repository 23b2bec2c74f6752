"""Passages that two texts share are found from their sketches, and texts of one kind are told apart."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from qtoolkit.texts.overlap import overlap, sketch
from tests.texts.calibration_texts import TEXT, tokens_of


@pytest.fixture(scope="module")
def tokens(smollm2: Path) -> torch.Tensor:
    return torch.tensor(tokens_of(AutoTokenizer.from_pretrained(smollm2), TEXT[:300_000]))


def rows(tokens: torch.Tensor, length: int) -> torch.Tensor:
    return tokens[: len(tokens) // length * length].view(-1, length)  # [rows, length]


def test_the_same_text_is_found_however_it_is_cut(tokens: torch.Tensor) -> None:
    text = tokens[:20_000]
    assert overlap(sketch(rows(text[300:], 512)), sketch(rows(text, 2000)))[1] > 0.9


def test_a_small_part_of_a_text_is_found_in_the_whole(tokens: torch.Tensor) -> None:
    common, share = overlap(sketch(rows(tokens, 512)), sketch(tokens[10_000:11_000][None]))
    assert common >= 3 and share == 1


def test_a_tenth_that_is_shared_is_about_a_tenth(tokens: torch.Tensor) -> None:
    ours, theirs = tokens[:20_000], tokens[18_000:38_000]
    assert 0.04 < overlap(sketch(rows(ours, 500)), sketch(rows(theirs, 500)))[1] < 0.2


def test_another_part_of_a_book_shares_what_it_repeats(tokens: torch.Tensor) -> None:
    """By passages of 16 tokens one by one: Python's documentation repeats some of its text."""
    ours, theirs = tokens[:20_000], tokens[30_000:50_000]
    passages = {tuple(passage) for passage in theirs.unfold(0, 16, 1).tolist()}
    repeated = [tuple(passage) in passages for passage in ours.unfold(0, 16, 1).tolist()]
    share = sum(repeated) / len(repeated)
    assert 0 < share < 0.05
    assert overlap(sketch(ours[None]), sketch(theirs[None]))[1] == pytest.approx(share, abs=0.02)


def test_one_passage_in_64_is_kept(tokens: torch.Tensor) -> None:
    assert len(sketch(tokens[None, :40_000])) == pytest.approx(40_000 / 64, rel=0.25)


@pytest.mark.parametrize("length", [1, 15])
def test_texts_without_a_passage_have_no_sketch(tokens: torch.Tensor, length: int) -> None:
    assert sketch(rows(tokens[:60], length)) == ()
    assert overlap((), (1, 2)) == (0, 0.0)
