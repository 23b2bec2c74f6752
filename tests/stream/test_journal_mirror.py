"""A journal with a copy on the Hub goes on where it was, on a machine that has nothing but the call."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from qtoolkit.errors import ConfigError, OutputError, SourceError
from qtoolkit.hub.mirror import HubMirror
from qtoolkit.stream.journal import Journal, JournalLocation
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub

RECIPE = {"bits": 4}
# Larger than a part of an upload, and smaller.
LARGE = {"a.qweight": torch.arange(200_000, dtype=torch.int32).view(-1, 4)}
SMALL = {"b.qweight": torch.arange(12, dtype=torch.int32).view(-1, 4)}


def fits(tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    return True


def journal(folder: Path, recipe: dict[str, int] = RECIPE) -> Journal:
    return Journal(JournalLocation(folder, HubMirror("me/run", WRITE_TOKEN)), recipe)


def test_another_machine_goes_on(writable_hub: WritableHub, tmp_path: Path) -> None:
    first = journal(tmp_path / "first")
    first.write_tokens(torch.arange(6).view(2, 3))
    first.write(0, LARGE, {"a": 1})
    first.write(1, SMALL, {"b": 2})
    second = journal(tmp_path / "second")
    kept, large, small = second.read_tokens(lambda tokens: True), second.read(0, fits), second.read(1, fits)
    assert kept is not None and kept.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert large is not None and small is not None and (large.facts, small.facts) == ({"a": 1}, {"b": 2})
    assert torch.equal(large.tensors["a.qweight"][...], LARGE["a.qweight"])
    assert torch.equal(small.tensors["b.qweight"][...], SMALL["b.qweight"])
    assert second.read(2, fits) is None and second.resumed == 2
    assert first.notes == second.notes == []
    # Nothing of huggingface_hub's own stays between the files.
    assert {file.name for file in (tmp_path / "second").iterdir()} == {
        file.name for file in (tmp_path / "first").iterdir()
    }


def test_a_block_is_one_commit(writable_hub: WritableHub, tmp_path: Path) -> None:
    journal(tmp_path).write(7, SMALL, {})
    sent = [files for _, _, files in writable_hub.commits]
    assert sent == [["recipe.json"], ["block-00007.json", "block-00007.safetensors"]]


def test_what_the_folder_has_is_not_downloaded(writable_hub: WritableHub, tmp_path: Path) -> None:
    journal(tmp_path).write(0, SMALL, {})
    writable_hub.requests.clear()
    assert journal(tmp_path).read(0, fits) is not None
    assert writable_hub.downloads() == []


def test_the_repository_is_made_private(writable_hub: WritableHub, tmp_path: Path) -> None:
    journal(tmp_path)
    assert writable_hub.repositories["me/run"].private


def test_a_public_repository_is_refused(writable_hub: WritableHub, tmp_path: Path) -> None:
    writable_hub.add("me/run", {"README.md": b""})
    with pytest.raises(ConfigError, match="me/run is public: name a private one"):
        journal(tmp_path)
    assert not writable_hub.commits


def test_another_recipe_is_refused(writable_hub: WritableHub, tmp_path: Path) -> None:
    journal(tmp_path / "first")
    with pytest.raises(OutputError, match="was begun with bits 4, and this call has 3"):
        journal(tmp_path / "second", {"bits": 3})


@pytest.mark.parametrize(
    ("repo_id", "token", "told"),
    [
        ("me/run", "hf_unknown", "401"),
        ("me/run", "hf_reader", r"403.*may write to it"),
        ("somebody/run", WRITE_TOKEN, r"403.*may write to it"),
    ],
    ids=["unknown token", "token that may only read", "account of another"],
)
def test_no_right_to_write_is_told_at_once(
    repo_id: str, token: str, told: str, writable_hub: WritableHub, tmp_path: Path
) -> None:
    writable_hub.tokens.add("hf_reader")
    with pytest.raises(SourceError, match=told) as caught:
        Journal(JournalLocation(tmp_path, HubMirror(repo_id, token)), RECIPE)
    assert token not in str(caught.value)


def test_a_lost_connection_costs_nothing(writable_hub: WritableHub, tmp_path: Path) -> None:
    first = journal(tmp_path / "first")
    writable_hub.faults.append(Fault("/commit/", status=400, times=1))
    first.write(0, SMALL, {})
    assert "2 files of the journal are here alone, not in me/run" in first.notes[0]
    first.write(1, SMALL, {})
    # The next commit takes along what was left behind.
    assert first.notes == []
    second = journal(tmp_path / "second")
    assert second.read(0, fits) is not None and second.read(1, fits) is not None


@pytest.mark.parametrize("name", ["block-00000.safetensors", "block-00000.json"])
def test_a_file_with_a_wrong_bit_is_fetched_again(writable_hub: WritableHub, tmp_path: Path, name: str) -> None:
    journal(tmp_path / "first").write(0, LARGE, {"a": 1})
    # The first request is HEAD, which has no body.
    writable_hub.faults = [Fault(f"/resolve/.*/{name}$", flipped=-2, spared=1, times=1)]
    second = journal(tmp_path / "second")
    assert writable_hub.faults[0].times == 0
    assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    assert second.read(0, fits) is not None


@pytest.mark.parametrize("pulled", [0, 1, 2, 4, 6])
def test_a_pull_that_was_cut_is_never_gone_on_with_under_another_recipe(
    pulled: int, writable_hub: WritableHub, tmp_path: Path
) -> None:
    first = journal(tmp_path / "first")
    first.write_tokens(torch.arange(6).view(2, 3))
    for index in range(2):
        first.write(index, SMALL, {"b": index})
    folder = tmp_path / "second.partial" / "journal"
    writable_hub.faults.append(Fault("/resolve/", status=400, spared=2 * pulled))
    with pytest.raises(SourceError):
        journal(folder)
    writable_hub.faults.clear()
    came = {file.name for file in folder.glob("[!.]*")}
    assert len(came) == pulled and (not came or "recipe.json" in came)
    if came:
        # Without the copy, so that what came is all there is.
        with pytest.raises(OutputError, match="was begun with bits 4, and this call has 3"):
            Journal(JournalLocation(folder), {"bits": 3})
    resumed = journal(folder)
    assert resumed.read_tokens(lambda tokens: True) is not None
    assert [resumed.read(index, fits) is not None for index in range(3)] == [True, True, False]


def test_a_copy_that_is_partly_older_and_partly_of_another_job_gives_what_is_this_jobs(
    writable_hub: WritableHub, tmp_path: Path
) -> None:
    journal(tmp_path / "first").write(0, SMALL, {"b": 0})
    other = Journal(JournalLocation(tmp_path / "other"), {"bits": 3})
    for index in (1, 2):
        other.write(index, SMALL, {"b": index})
    # Of an older version, which wrote no recipe into a block.
    record = json.loads((tmp_path / "other" / "block-00002.json").read_text())
    (tmp_path / "other" / "block-00002.json").write_text(json.dumps({key: record[key] for key in ("sha256", "facts")}))
    HubMirror("me/run", WRITE_TOKEN).push(sorted((tmp_path / "other").glob("block-*")))
    second = journal(tmp_path / "second.partial" / "journal")
    assert [second.read(index, fits) is not None for index in range(3)] == [True, False, False]
    kept = sorted(file.name for file in (tmp_path / "second.old-journal").iterdir())
    assert kept == [f"block-0000{index}.{end}" for index in (1, 2) for end in ("json", "safetensors")]


def test_a_block_much_longer_than_listed_is_not_written(writable_hub: WritableHub, tmp_path: Path) -> None:
    journal(tmp_path / "first").write(0, SMALL, {})
    commit_hash = writable_hub.repositories["me/run"].refs["main"]
    headers = {"X-Repo-Commit": commit_hash, "ETag": '"' + "a" * 64 + '"'}
    writable_hub.faults.append(Fault("/block-00000.safetensors$", status=200, headers=headers, body=bytes(3_000_000)))
    with pytest.raises(SourceError, match=r"more bytes came for block-00000.safetensors of me/run than the"):
        journal(tmp_path / "second")
    assert {file.name for file in (tmp_path / "second").iterdir()} <= {"recipe.json"}
