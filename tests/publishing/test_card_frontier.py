"""A frontier on a card is of the model's own base, with its picture beside the card and no folder of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.publishing import read_receipt
from qtoolkit.publishing.card_frontier import refuse_foreign_frontier
from qtoolkit.records import Compared, Frontier, Receipt
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.writable import WritableHub
from tests.records.test_comparison import SOURCE, quality

pytestmark = pytest.mark.slow

LABELS = ("GPTQ(bits=3)", "GPTQ(calibration='/home/ann/books/a|b.txt')")


@pytest.fixture
def receipt(made: dict[str, Path]) -> Receipt:
    found = read_receipt(made["absmax"])
    assert found is not None
    return found


@pytest.fixture
def frontier(receipt: Receipt) -> Frontier:
    results = tuple(
        Compared(label, "m", {}, "cpu", footprint=size, memory=size, disk=size, quality=quality(kl))
        for label, size, kl in zip(LABELS, (100_000, 200_000), (0.5, 0.25), strict=True)
    )
    source = replace(SOURCE, name=receipt.source.name, commit_hash=None)
    return Frontier(source, "/home/ann/books/held out.txt", "f" * 64, results)


def test_the_card_shows_picture_and_table_and_verify_finds_nothing_wrong(
    made: dict[str, Path], frontier: Frontier, writable_hub: WritableHub, tmp_path: Path, run_here: list[str]
) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    sent = qt.publish(made["absmax"], "me/tiny", frontier=frontier)
    repository = writable_hub.repositories["me/tiny"]
    files = repository.commits[repository.refs["main"]]
    card, picture = files["README.md"].decode(), files["frontier.svg"].decode()
    assert ModelCard(card).text and "](frontier.svg)" in card
    assert "| GPTQ(bits=3) | 100.0 kB |" in card and "a\\|b.txt" in card and "held out.txt" in card
    assert "/home/ann" not in card + picture and "tiny-llama" in card
    assert picture.startswith("<svg") and "GPTQ(bits=3)" in picture
    assert sent.files["frontier.svg"] == len(picture.encode())
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in files.items():
        (copy / name).write_bytes(content)
    assert not qt.verify(copy).failed
    assert "frontier.svg" not in qt.publish(made["absmax"], "me/tiny", dry_run=True).files


def test_a_frontier_of_another_model_is_refused(frontier: Frontier, receipt: Receipt) -> None:
    refuse_foreign_frontier(frontier, receipt)
    other = replace(frontier, source=replace(frontier.source, name="org/other"))
    with pytest.raises(ConfigError, match=r"frontier is of 'org/other', and the base is .*tiny-llama'"):
        refuse_foreign_frontier(other, receipt)
    first, second = (replace(frontier.source, commit_hash=letter * 40) for letter in "ab")
    with pytest.raises(ConfigError, match=r"frontier is of commit a{40} of .*, and this model was made from b{40}"):
        refuse_foreign_frontier(replace(frontier, source=first), replace(receipt, source=second))
    with pytest.raises(ConfigError, match="made from one in memory"):
        refuse_foreign_frontier(frontier, replace(receipt, source=replace(receipt.source, format="loaded")))
    with pytest.raises(ConfigError, match="holds no recipe that was measured"):
        refuse_foreign_frontier(replace(frontier, results=()), receipt)


def test_what_is_no_frontier_is_refused_before_any_work(made: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"frontier must be what qt\.frontier returns, got str"):
        qt.publish(made["absmax"], "me/tiny", frontier="best", dry_run=True)  # type: ignore[arg-type]
