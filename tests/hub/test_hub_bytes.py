"""What comes from the Hub is compared with the hash that the Hub names: a bad file is fetched again, or refused."""

import os
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from qtoolkit.errors import CheckpointError
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.repository import fetch
from qtoolkit.records import ProgressEvent
from tests.fake_hub.server import Fault, Hub, with_bit_flipped
from tests.fake_hub.xet import XetHub
from tests.hub.hub_models import accept, content, ignore_progress, sharded, single

WEIGHTS = "model.safetensors"
CHECKED = "checked: every file has the hash that the Hub names"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def blobs(tmp_path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (tmp_path / "hub").glob("*/blobs/*")]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_one_wrong_bit_is_found_and_the_file_fetched_again(any_hub: Hub, name: str) -> None:
    any_hub.add("org/model", single())
    through_xet = isinstance(any_hub, XetHub) and name == WEIGHTS
    path = "/xorbs/" if through_xet else f"/{name.replace('.', '[.]')}$"
    # Over HTTP, the first request is HEAD, which has no body.
    any_hub.faults = [Fault(path, flipped=15, spared=0 if through_xet else 1, times=1)]
    events = list[ProgressEvent]()
    snapshot = fetch("org/model", on_progress=events.append, check=accept)
    assert files_of(snapshot.folder) == single()
    assert snapshot.checked == CHECKED
    assert any_hub.faults[0].times == 0
    done, total = [event.done for event in events], sum(map(len, single().values()))
    assert (done, done[-1]) == (sorted(done), total)


@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
def test_a_file_that_is_always_wrong_is_refused_and_not_kept(hub: Hub, name: str, tmp_path: Path) -> None:
    hub.add("org/model", single())
    hub.faults = [Fault(f"/{name}$", flipped=15)]
    with pytest.raises(CheckpointError, match=f"{name} of org/model came twice with other bytes") as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    assert "\n" not in str(caught.value)
    assert with_bit_flipped(single()[name], 15) not in blobs(tmp_path)
    hub.faults.clear()
    assert files_of(fetch("org/model", on_progress=ignore_progress, check=accept).folder) == single()


def _cut(blob: Path) -> None:
    os.truncate(blob, blob.stat().st_size // 2)


def _empty(blob: Path) -> None:
    os.truncate(blob, 0)


def _flip(blob: Path) -> None:
    blob.write_bytes(with_bit_flipped(blob.read_bytes(), 5))


DAMAGE = pytest.mark.parametrize("damage", [_cut, _empty, _flip])


@DAMAGE
@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_what_the_cache_holds_is_compared_too(hub: Hub, damage: Callable[[Path], None], name: str) -> None:
    hub.add("org/model", single())
    # Downloaded by another program, which compares sizes at most.
    damage(Path(huggingface_hub.hf_hub_download("org/model", name)).resolve())
    hub.requests.clear()
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert files_of(snapshot.folder) == single()
    assert hub.downloads().count(name) == 1


def test_a_cached_file_is_hashed_once(hub: Hub) -> None:
    hub.add("org/model", single())
    blob = Path(huggingface_hub.hf_hub_download("org/model", WEIGHTS)).resolve()
    events = list[ProgressEvent]()
    fetch("org/model", on_progress=events.append, check=accept)
    assert events[-1].total == sum(map(len, single().values())), "what is hashed counts in the progress"
    # With the same size, time and inode nothing tells of the change: only one who reads it again would see it.
    state = blob.stat()
    with blob.open("r+b") as stream:
        stream.write(b"changed")
    os.utime(blob, ns=(state.st_atime_ns, state.st_mtime_ns))
    hub.requests.clear()
    fetch("org/model", on_progress=ignore_progress, check=accept)
    assert hub.downloads() == []
    os.utime(blob)
    assert files_of(fetch("org/model", on_progress=ignore_progress, check=accept).folder) == single()
    assert hub.downloads() == [WEIGHTS]


def test_a_damaged_record_of_hashes_is_not_needed(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/model", single())
    fetch("org/model", on_progress=ignore_progress, check=accept)
    (record,) = (tmp_path / "cache").rglob("hashes.json")
    for odd in ("{", "[]", record.read_text().replace("[", "[[").replace("]", "]]"), "{}"):
        record.write_text(odd)
        assert fetch("org/model", on_progress=ignore_progress, check=accept).checked == CHECKED


def test_offline_a_file_is_compared_with_its_name_in_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", sharded())
    fetch("org/model", on_progress=ignore_progress, check=accept)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    whole = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert whole.checked == "checked: every file has the hash that the local Hub cache names it by"


@DAMAGE
@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
def test_offline_a_damaged_file_is_refused(
    hub: Hub, damage: Callable[[Path], None], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/model", single())
    damage((fetch("org/model", on_progress=ignore_progress, check=accept).folder / name).resolve())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=f"{name} of org/model has other bytes in the local cache") as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert files_of(fetch("org/model", on_progress=ignore_progress, check=accept).folder) == single()


def test_where_no_hash_is_named_that_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", single())
    hub.names_hashes = False
    told = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert told.checked == "not checked: the Hub names no hash of config.json"
    config = told.folder / "config.json"
    # As where a file system has no links.
    config.resolve().rename(told.folder / "plain")
    config.unlink()
    (told.folder / "plain").rename(config)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert offline.checked == "not checked: the local Hub cache names no hash of config.json"


def test_a_persons_own_file_behind_a_link_is_not_removed(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/model", single())
    config = Path(huggingface_hub.hf_hub_download("org/model", "config.json"))
    (tmp_path / "mine.json").write_text("{}")
    config.unlink()
    config.symlink_to(tmp_path / "mine.json")
    assert files_of(fetch("org/model", on_progress=ignore_progress, check=accept).folder) == single()
    assert (tmp_path / "mine.json").read_text() == "{}"


def test_a_header_that_a_plan_read_is_compared_when_the_file_comes(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/model", tiny_llama)
    # A letter of the first tensor's name.
    hub.faults = [Fault(r"-00001-of-\d+\.safetensors$", flipped=30, times=1)]
    for note in ("the header of model-00001-of-00003.safetensors that qt.plan read is not that of the file", ""):
        with fetch_headers("org/model", revision=None, token=None, check=accept):
            pass
        snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
        assert snapshot.note.startswith(note)
        assert bool(snapshot.note) == bool(note)


def test_the_config_that_a_plan_reads_is_compared(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/model", tiny_llama)
    hub.faults = [Fault("/config.json$", flipped=15, spared=1, times=1)]
    with fetch_headers("org/model", revision=None, token=None, check=accept) as headers:
        assert (headers.folder / "config.json").read_bytes() == (tiny_llama / "config.json").read_bytes()


def test_a_link_to_a_blob_of_another_commit_is_compared(hub: Hub) -> None:
    repository = hub.add("org/model", single())
    blob = Path(huggingface_hub.hf_hub_download("org/model", WEIGHTS)).resolve()
    _flip(blob)
    repository.commit({"config.json": content(100, seed=7)})
    snapshot = fetch("org/model", on_progress=ignore_progress, check=accept)
    assert (snapshot.folder / WEIGHTS).read_bytes() == single()[WEIGHTS]
