"""A mixture takes from each source its share of the samples, and tells how many."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtoolkit.errors import ConfigError
from qtoolkit.texts.calibration_sources import calibration_fingerprint, check_calibration, describe_calibration
from qtoolkit.texts.mixtures import counts_of, read_mixture, write_mixture
from tests.texts.calibration_texts import DOCUMENTS, load

HUGE = "1" + 39 * "0"
CHATS = [{"messages": [{"role": "user", "content": text[:600]}]} for text in DOCUMENTS]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.txt").write_text("\n".join(DOCUMENTS[:20]), encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(DOCUMENTS[20:]), encoding="utf-8")
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_samples_are_those_of_each_source(files: Path, tokenizer: Any) -> None:
    mixture = {"a.txt": 3, "chat.jsonl": 1, str(files / "b.txt"): 1}
    check_calibration(mixture)
    sample = load(mixture, tokenizer, num_samples=10)
    parts = [load(name, tokenizer, num_samples=count) for name, count in zip(mixture, (6, 2, 2), strict=True)]
    assert torch.equal(sample.tokens, torch.cat([part.tokens for part in parts]))
    assert sample.name == "a.txt + chat.jsonl + b.txt"
    assert sample.notes[0] == "samples of the mixture: 6 of a.txt, 2 of chat.jsonl, 2 of b.txt"
    assert "chat.jsonl: messages written by the tokenizer's chat template" in sample.notes
    assert not any(str(files) in note for note in sample.notes)


@given(
    st.dictionaries(st.text(min_size=1), st.floats(1e-3, 1e3), min_size=2, max_size=8),
    st.integers(1, 500),
)
def test_samples_are_shared_out_whole(shares: dict[str, float], total: int) -> None:
    counts = counts_of(shares, total)
    whole = sum(shares.values())
    assert list(counts) == list(shares)
    assert sum(counts.values()) == total
    # No source is a whole sample away from its share: what largest remainders guarantee.
    assert all(abs(counts[name] - total * share / whole) < 1 + 1e-9 for name, share in shares.items())


def test_the_largest_remainders_get_what_is_left() -> None:
    assert counts_of({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert counts_of({"a": 0.5, "b": 0.3, "c": 0.2}, 4) == {"a": 2, "b": 1, "c": 1}
    assert counts_of({"a": 47, "b": 16, "c": 15.9, "d": 12, "e": 6.1, "f": 3}, 10) == (
        {"a": 5, "b": 2, "c": 1, "d": 1, "e": 1, "f": 0}
    )


def test_a_share_that_is_less_than_a_sample_is_told(files: Path, tokenizer: Any) -> None:
    sample = load({"a.txt": 100, "b.txt": 1}, tokenizer)
    assert torch.equal(sample.tokens, load("a.txt", tokenizer).tokens)
    assert "no sample of b.txt: so few samples are less than one for its share" in sample.notes


@pytest.mark.parametrize("text", ["a.txt=0.5,chat.jsonl=0.5", " a.txt = .5 , chat.jsonl=0.50"])
def test_a_mixture_is_written_on_a_line(text: str) -> None:
    assert read_mixture(text) == {"a.txt": 0.5, "chat.jsonl": 0.5}
    assert write_mixture(read_mixture(text).items()) == "a.txt=0.5,chat.jsonl=0.5"


@pytest.mark.parametrize(("share", "number"), [("-1", -1), ("+1", 1), ("1e-2", 0.01), ("5.E+1", 50)])
def test_a_share_may_be_any_number_until_it_is_checked(share: str, number: float) -> None:
    assert read_mixture(f"a.txt={share},b.txt=1") == {"a.txt": number, "b.txt": 1}


def test_a_source_that_is_named_twice_loses_no_share() -> None:
    with pytest.raises(ConfigError, match=r"^a mixture names each source once, got 'a\.txt' twice: add up"):
        read_mixture("a.txt=1,b.txt=1,a.txt=3")


def test_several_datasets_are_no_mixture() -> None:
    splits = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": ["a"]}) for name in ("train", "test")})
    with pytest.raises(
        ConfigError, match=r"a DatasetDict holds several Datasets: give one of them \('train', 'test'\)"
    ):
        check_calibration(splits)
    assert describe_calibration(splits) == "DatasetDict"


@pytest.mark.parametrize("value", ["wikitext2", "a=1", "a,b=1", "a=1,b", "a=1,b=x", "a=1,\nb=1", ["a=1,b=1"], None])
def test_what_is_no_mixture_stays_as_it_is(value: Any) -> None:
    assert read_mixture(value) is value


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        ({}, "a mixture has two sources or more, got 0: give the source itself"),
        ({"a.txt": 1}, "a mixture has two sources or more, got 1: give the source itself"),
        ({"a.txt": 1, "self": 1}, "the model writes all of its text or none: leave 'self' out of the mixture"),
        ({"a.txt": 1, 5: 1}, "a mixture names its sources, got int: give names or files"),
        ({"a.txt": 0, "b.txt": 1}, "the share of 'a.txt' must be a number from above 0 to 1e+09, got 0"),
        ({"a.txt": 1, "b.txt": -0.5}, "the share of 'b.txt' must be a number from above 0 to 1e+09, got -0.5"),
        ({"a.txt": float("nan"), "b.txt": 1}, "the share of 'a.txt' must be a number from above 0 to 1e+09, got nan"),
        ({"a.txt": float("inf"), "b.txt": 1}, "the share of 'a.txt' must be a number from above 0 to 1e+09, got inf"),
        ({"a.txt": "half", "b.txt": 1}, "the share of 'a.txt' must be a number from above 0 to 1e+09, got 'half'"),
        ({"a.txt": 10**400, "b.txt": 1}, f"the share of 'a.txt' must be a number from above 0 to 1e+09, got {HUGE}"),
        ({"input_ids": [[1, 2]]}, "token ids are given as a list or an array: give what stands under 'input_ids'"),
        ({"a.txt": True, "b.txt": 1}, "the share of 'a.txt' must be a number from above 0 to 1e+09, got True"),
    ],
)
def test_shares_are_checked(files: Path, mixture: dict[Any, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_calibration(mixture)
    assert str(caught.value) == f"calibration: {told}"
    # Jobs name their recipes before they check them.
    assert describe_calibration(mixture) == f"{len(mixture)} sources"


def test_each_source_is_checked(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be 'wikitext2', .* got 'gone.txt'$"):
        check_calibration({"a.txt": 1, "gone.txt": 1})


def test_a_column_is_that_of_the_sources_with_columns(files: Path, tokenizer: Any) -> None:
    mixture = {"a.txt": 1, "chat.jsonl": 1}
    check_calibration(mixture, "messages")
    assert load(mixture, tokenizer, column="messages") == load(mixture, tokenizer)
    with pytest.raises(ConfigError, match=r"has no column 'dialog': it has messages$"):
        check_calibration(mixture, "dialog")
    with pytest.raises(ConfigError, match=r"no source has columns: leave out calibration_column='dialog'$"):
        check_calibration({"a.txt": 1, "b.txt": 1}, "dialog")


def test_a_fingerprint_follows_files_and_shares(files: Path) -> None:
    (files / "folder").mkdir()
    (files / "folder" / "c.txt").write_text("one")
    values: list[Any] = [{"a.txt": 1, "b.txt": 1}, {"a.txt": 2, "b.txt": 1}, "folder", CHATS, [[1, 2]], [[1, 3]]]
    before = [json.dumps(calibration_fingerprint(value)) for value in values]
    assert len(set(before)) == len(values)
    assert calibration_fingerprint(torch.tensor([[1, 2]])) == calibration_fingerprint([[1, 2]])
    (files / "a.txt").write_text("other")
    (files / "folder" / "c.txt").write_text("two")
    after = [json.dumps(calibration_fingerprint(value)) for value in values]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, False, True, True, True]


def test_what_a_config_calls_its_text() -> None:
    shown = [describe_calibration(one) for one in ({"a.txt": 1, "b": 0.5}, CHATS, ["a"], torch.ones(2, 3), Path("a/b"))]
    assert shown == ["a.txt=1,b=0.5", "40 rows", "1 texts", "2 rows", "a/b"]
