"""A journal gives back what was kept whole, and refuses to go on with another recipe."""

import json
from pathlib import Path

import pytest
import torch

from qtoolkit.errors import OutputError
from qtoolkit.stream import Journal, JournalPlace

RECIPE = {"bits": 4, "calibration": "wikitext2", "layers": [1, 2]}
TENSORS = {"a.qweight": torch.arange(12, dtype=torch.int32).view(3, 4), "a.scales": torch.rand(2, 4).half()}
FACTS = {"a": {"error": 0.25}}


@pytest.mark.parametrize("kept", ["folder", "memory"])
def test_a_block_comes_back_as_it_was(kept: str, tmp_path: Path) -> None:
    journal = Journal(JournalPlace(tmp_path / "journal") if kept == "folder" else None, RECIPE)
    assert journal.read(3) is None
    journal.write(3, TENSORS, FACTS)
    if kept == "folder":
        journal = Journal(JournalPlace(tmp_path / "journal"), RECIPE)
    found = journal.read(3)
    assert found is not None and found.facts == FACTS
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(value[...], TENSORS[name]) for name, value in found.tensors.items())


@pytest.mark.parametrize("damage", ["no facts", "shorter", "changed", "temporary"])
def test_a_block_that_is_not_whole_does_not_count(damage: str, tmp_path: Path) -> None:
    journal = Journal(JournalPlace(tmp_path), RECIPE)
    journal.write(0, TENSORS, FACTS)
    weights, facts = journal.files(0)
    data = weights.read_bytes()
    match damage:
        case "no facts":
            facts.unlink()
        case "shorter":
            weights.write_bytes(data[:-7])
        case "changed":
            weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "temporary":
            weights.rename(weights.with_suffix(".tmp"))
    assert Journal(JournalPlace(tmp_path), RECIPE).read(0) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bits": 3}, "bits 4, and this call has 3"),
        ({"calibration": "c4"}, "calibration wikitext2, and this call has c4"),
        ({"new": True}, "new None, and this call has True"),
    ],
)
def test_another_recipe_is_refused(change: dict[str, object], told: str, tmp_path: Path) -> None:
    Journal(JournalPlace(tmp_path / "out.partial" / "journal"), RECIPE)
    with pytest.raises(OutputError, match=f"out.partial was begun with {told}.*resume=False"):
        Journal(JournalPlace(tmp_path / "out.partial" / "journal"), RECIPE | change)


def test_a_damaged_recipe_is_refused(tmp_path: Path) -> None:
    Journal(JournalPlace(tmp_path), RECIPE)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        Journal(JournalPlace(tmp_path), RECIPE)


def test_a_failed_write_leaves_earlier_blocks_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(JournalPlace(tmp_path), RECIPE)
    journal.write(0, TENSORS, FACTS)

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        journal.write(1, TENSORS, FACTS)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["block-00000.json", "block-00000.safetensors", "recipe.json"]
    assert json.loads((tmp_path / "recipe.json").read_text()) == RECIPE
