"""A journal gives back what was kept whole, and refuses to go on with another recipe."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.errors import OutputError
from qtoolkit.stream.journal import Journal, JournalLocation

RECIPE: dict[str, object] = {"bits": 4, "calibration": "wikitext2", "layers": [1, 2]}
TENSORS = {"a.qweight": torch.arange(12, dtype=torch.int32).view(3, 4), "a.scales": torch.rand(2, 4).half()}
FACTS = {"a": {"error": 0.25}}


def fits(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether these are the tensors and facts that this file keeps."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()} and set(facts) == {"a"}


def refused(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("kept", ["folder", "memory"])
def test_a_block_comes_back_as_it_was(kept: str, tmp_path: Path) -> None:
    journal = Journal(JournalLocation(tmp_path / "journal") if kept == "folder" else None, RECIPE)
    assert journal.read(3, fits) is None
    journal.write(3, TENSORS, FACTS)
    if kept == "folder":
        journal = Journal(JournalLocation(tmp_path / "journal"), RECIPE)
    found = journal.read(3, fits)
    assert found is not None and found.facts == FACTS
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(value[...], TENSORS[name]) for name, value in found.tensors.items())


def test_groups_of_a_block_stand_until_the_block_does(tmp_path: Path) -> None:
    Journal(JournalLocation(tmp_path), RECIPE).write_group(3, 0, TENSORS, FACTS)
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    found = journal.read_group(3, 0, fits)
    assert found is not None and found.facts == FACTS
    assert journal.read_group(3, 1, fits) is None and journal.read(3, fits) is None
    journal.write(3, TENSORS, FACTS)
    assert sorted(contents(tmp_path)) == ["block-00003.json", "block-00003.safetensors", "recipe.json"]


@pytest.mark.parametrize("damage", ["no facts", "shorter", "changed", "temporary", "facts changed", "facts empty"])
def test_a_block_that_is_not_whole_does_not_count(damage: str, tmp_path: Path) -> None:
    journal = Journal(JournalLocation(tmp_path), RECIPE)
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
        case "facts changed":
            facts.write_text(facts.read_text().replace("0.25", "0.26"))
        case "facts empty":
            facts.write_bytes(b"")
    assert Journal(JournalLocation(tmp_path), RECIPE).read(0, fits) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bits": 3}, "bits 4, and this call has 3"),
        ({"calibration": "c4"}, "calibration wikitext2, and this call has c4"),
        ({"new": True}, "new None, and this call has True"),
    ],
)
def test_another_recipe_is_refused(change: dict[str, object], told: str, tmp_path: Path) -> None:
    Journal(JournalLocation(tmp_path / "out.partial" / "journal"), RECIPE)
    with pytest.raises(OutputError, match=f"out.partial was begun with {told}.*resume=False"):
        Journal(JournalLocation(tmp_path / "out.partial" / "journal"), RECIPE | change)


def test_what_an_earlier_recipe_lacks_has_the_value_that_it_meant(tmp_path: Path) -> None:
    place, absent = JournalLocation(tmp_path / "out.partial" / "journal"), {"new": False}
    Journal(place, RECIPE).write(0, TENSORS, FACTS)
    before = contents(place.folder)
    assert Journal(place, RECIPE | {"new": False}, absent=absent).read(0, fits) is not None
    with pytest.raises(OutputError, match=r"was begun with new False, and this call has True"):
        Journal(place, RECIPE | {"new": True}, absent=absent)
    assert contents(place.folder) == before


def test_what_a_later_recipe_adds_counts(tmp_path: Path) -> None:
    place, absent = JournalLocation(tmp_path / "out.partial" / "journal"), {"new": False}
    Journal(place, RECIPE | {"new": True}, absent=absent).write(0, TENSORS, FACTS)
    assert Journal(place, RECIPE | {"new": True}, absent=absent).read(0, fits) is not None
    for recipe in (RECIPE, RECIPE | {"new": False}):
        with pytest.raises(OutputError, match=r"was begun with new True, and this call has False"):
            Journal(place, recipe, absent=absent)


def test_a_block_that_does_not_fit_does_not_count(tmp_path: Path) -> None:
    Journal(JournalLocation(tmp_path), RECIPE).write(0, TENSORS, FACTS)
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    assert journal.read(0, refused) is None and journal.resumed == 0
    assert journal.read(0, fits) is not None and journal.resumed == 1


@pytest.mark.parametrize("damage", ["no recipe", "cut", "empty", "a list", "changed"])
def test_a_recipe_that_is_damaged_or_gone_costs_nothing(damage: str, tmp_path: Path) -> None:
    place = JournalLocation(tmp_path / "out.partial" / "journal")
    Journal(place, RECIPE).write(0, TENSORS, FACTS)
    recipe = place.folder / "recipe.json"
    whole = recipe.read_bytes()
    match damage:
        case "no recipe":
            recipe.unlink()
        case "cut":
            recipe.write_bytes(whole[:40])
        case "empty":
            recipe.write_bytes(b"")
        case "a list":
            recipe.write_bytes(b"[1, 2]")
        case "changed":
            recipe.write_bytes(whole.replace(b"wikitext2", b"wikitext3"))
    journal = Journal(place, RECIPE)
    assert journal.read(0, fits) is not None and journal.notes == []
    assert recipe.read_bytes() == whole


@pytest.mark.parametrize("left", ["recipe gone", "recipe damaged", "recipe replaced"])
def test_blocks_never_count_under_another_recipe(left: str, tmp_path: Path) -> None:
    """As a cut pull leaves them, or a copy that is partly another job's."""
    place, other = JournalLocation(tmp_path / "out.partial" / "journal"), RECIPE | {"bits": 3}
    Journal(place, RECIPE).write(0, TENSORS, FACTS)
    before = contents(place.folder)
    match left:
        case "recipe gone":
            (place.folder / "recipe.json").unlink()
        case "recipe damaged":
            (place.folder / "recipe.json").write_bytes(b"{")
        case "recipe replaced":
            Journal(JournalLocation(tmp_path / "other"), other)
            shutil.copy(tmp_path / "other" / "recipe.json", place.folder)
    journal = Journal(place, other)
    assert journal.read(0, fits) is None
    aside = tmp_path / "out.old-journal"
    assert f"kept in {aside}, which may be removed" in journal.notes[0]
    kept = contents(aside)
    assert kept == {name: data for name, data in before.items() if name != "recipe.json"}
    journal.write(0, TENSORS, FACTS)
    assert Journal(place, other).read(0, fits) is not None


def older(folder: Path) -> dict[str, bytes]:
    """A journal as the first version wrote it; gives its files."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    Journal(JournalLocation(folder.parent / "made"), RECIPE).write(0, TENSORS, FACTS)
    record = json.loads((folder.parent / "made" / "block-00000.json").read_text())
    for name in ("block-00000", "tokens"):
        shutil.copy(folder.parent / "made" / "block-00000.safetensors", folder / f"{name}.safetensors")
    (folder / "block-00000.json").write_text(json.dumps({key: record[key] for key in ("sha256", "facts")}))
    shutil.rmtree(folder.parent / "made")
    return contents(folder)


@pytest.mark.parametrize("missing", [None, "recipe.json"])
def test_a_journal_of_an_older_version_is_kept_aside(missing: str | None, tmp_path: Path) -> None:
    place = JournalLocation(tmp_path / "out.partial" / "journal")
    files = older(place.folder)
    if missing is not None:
        (place.folder / missing).unlink()
        del files[missing]
    journal = Journal(place, RECIPE)
    assert journal.read(0, fits) is None and journal.read_tokens(lambda tokens: True) is None
    assert contents(tmp_path / "out.old-journal") == files
    assert "older version" in journal.notes[0]


def test_the_same_is_kept_aside_once_and_anything_else_stays(tmp_path: Path) -> None:
    place = JournalLocation(tmp_path / "out.partial" / "journal")
    aside = tmp_path / "out.old-journal"
    aside.mkdir()
    (aside / "mine.txt").write_text("somebody's own")
    for _ in range(2):
        # A copy on the Hub brings the same files again.
        files = older(place.folder)
        Journal(place, RECIPE)
        shutil.rmtree(place.folder)
    assert contents(tmp_path / "out.old-journal-2") == files
    assert contents(aside) == {"mine.txt": b"somebody's own"}
    changed = older(place.folder)
    (place.folder / "block-00000.json").write_bytes(b'{"other": 1}')
    Journal(place, RECIPE)
    assert contents(tmp_path / "out.old-journal-2") == files
    assert contents(tmp_path / "out.old-journal-3") == changed | {"block-00000.json": b'{"other": 1}'}


def test_blocks_count_with_the_samples_that_they_were_made_with(tmp_path: Path) -> None:
    tokens = torch.arange(6).view(2, 3)
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    journal.write_tokens(tokens)
    journal.write(0, TENSORS, FACTS)
    (tmp_path / "tokens.safetensors").write_bytes(b"")
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    assert journal.read_tokens(lambda tokens: True) is None
    journal.write_tokens(tokens + 1)
    assert journal.read(0, fits) is None
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    assert journal.read_tokens(lambda tokens: False) is None
    # Written again they are the same, and so the block counts.
    journal.write_tokens(tokens)
    assert journal.read(0, fits) is not None


def test_what_is_no_file_does_not_count(tmp_path: Path) -> None:
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    for index in range(4):
        journal.write(index, TENSORS, FACTS)
    for index, kind in enumerate(("folder", "pipe", "dangling link")):
        for file in journal.files(index):
            file.unlink()
            if kind == "folder":
                file.mkdir()
            elif kind == "pipe":
                os.mkfifo(file)
            else:
                file.symlink_to(tmp_path / "nowhere")
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    assert [journal.read(index, fits) is None for index in range(4)] == [True, True, True, False]


def test_a_failed_write_leaves_earlier_blocks_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(JournalLocation(tmp_path), RECIPE)
    journal.write(0, TENSORS, FACTS)

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        journal.write(1, TENSORS, FACTS)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["block-00000.json", "block-00000.safetensors", "recipe.json"]
    assert RECIPE.items() <= json.loads((tmp_path / "recipe.json").read_text()).items()
