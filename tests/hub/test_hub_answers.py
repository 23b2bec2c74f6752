"""Answers that are not the Hub's own: pages of a network's login, of other commits, in other places, of other parts."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from qtoolkit.errors import CheckpointError, HubUnreachableError
from qtoolkit.hub import checked_bytes
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.repository import fetch
from tests.fake_hub.server import Fault, Hub, with_bit_flipped
from tests.hub.hub_models import SHARDS, accept, ignore_progress, sharded

PAGE = b"\n<!DOCTYPE html><html><body>Log in to the network</body></html>"
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fetched(name: str = "org/model") -> dict[str, bytes]:
    folder = fetch(name, on_progress=ignore_progress, check=accept).folder
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def answer(hub: Hub, name: str, headers: Mapping[str, str], body: bytes | None = None, status: int = 200) -> Fault:
    """An answer in place of a file, as the Hub's but for what is given."""
    told = {"ETag": '"' + "a" * 64 + '"', "X-Repo-Commit": hub.repositories["org/model"].refs["main"], **headers}
    return Fault(f"/{name}$", status=status, headers=told, body=sharded()[name] if body is None else body)


@pytest.mark.parametrize(
    ("name", "body", "names_hashes"),
    [
        ("config.json", PAGE, True),
        ("tokenizer.json", None, False),
        ("tokenizer.json", PAGE, True),
        ("model.safetensors.index.json", None, False),
        (SHARDS[1], None, True),
        (SHARDS[1], PAGE, False),
    ],
)
def test_a_file_of_another_commit(hub: Hub, name: str, body: bytes | None, *, names_hashes: bool) -> None:
    hub.add("org/model", sharded())
    hub.names_hashes = names_hashes
    hub.faults = [answer(hub, name, {"X-Repo-Commit": OTHER}, body)]
    with pytest.raises(HubUnreachableError, match=rf"not as the Hub does \(no file of commit .* came for {name}\)"):
        fetched()
    hub.faults.clear()
    assert fetched() == sharded()


@pytest.mark.parametrize("names_hashes", [True, False], ids=["hashes", "no hashes"])
def test_an_empty_etag(hub: Hub, *, names_hashes: bool) -> None:
    """huggingface_hub links the file to the folder of all blobs."""
    hub.add("org/model", sharded())
    hub.names_hashes = names_hashes
    hub.faults = [answer(hub, SHARDS[0], {"ETag": '""'})]
    with pytest.raises(HubUnreachableError, match="not as the Hub does"):
        fetched()
    hub.faults.clear()
    assert fetched() == sharded()


def test_a_folder_in_the_place_of_a_file_is_let_go(hub: Hub) -> None:
    hub.add("org/model", sharded())
    place = fetch("org/model", on_progress=ignore_progress, check=accept).folder / SHARDS[0]
    place.unlink()
    place.symlink_to("../../blobs")
    assert fetched() == sharded()


@pytest.mark.parametrize("etag", ["../../evil", "{}/evil"], ids=["relative", "absolute"])
def test_an_etag_that_is_a_path_is_told(hub: Hub, etag: str, tmp_path: Path) -> None:
    hub.add("org/model", sharded())
    hub.faults = [answer(hub, SHARDS[0], {"X-Linked-ETag": f'"{etag.format(tmp_path)}"'})]
    with pytest.raises(CheckpointError, match=r"/evil, outside of its cache: look at that file") as caught:
        fetched()
    assert "\n" not in str(caught.value)
    hub.faults.clear()
    assert fetched() == sharded()


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes 7-107/200000"}], ids=["multipart", "shifted"])
def test_another_part_of_a_file_is_no_header(hub: Hub, tiny_llama: Path, headers: dict[str, str]) -> None:
    hub.add("org/model", tiny_llama)
    hub.faults = [Fault(r"[.]safetensors$", status=206, headers=headers, body=b"--x\r\n\r\nabcdefgh\r\n--x--")]
    with (
        pytest.raises(HubUnreachableError, match="asked for bytes from 0 on, got"),
        fetch_headers("org/model", revision=None, token=None, check=accept),
    ):
        pass


def test_a_page_is_no_header(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/model", tiny_llama)
    hub.faults = [Fault(r"[.]safetensors$", status=200, body=PAGE)]
    with (
        pytest.raises(HubUnreachableError, match=r"a page of markup in place of model-00001.* login page"),
        fetch_headers("org/model", revision=None, token=None, check=accept),
    ):
        pass


def test_two_processes_find_the_same_damaged_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", sharded())
    place = fetch("org/model", on_progress=ignore_progress, check=accept).folder / SHARDS[0]
    place.resolve().write_bytes(with_bit_flipped(sharded()[SHARDS[0]], 9))
    pieces = checked_bytes._pieces

    def removed_meanwhile(file: Path) -> Iterator[memoryview]:
        yield from pieces(file)
        if file.name == SHARDS[0]:
            monkeypatch.setattr(checked_bytes, "_pieces", pieces)
            os.unlink(file.resolve())  # noqa: PTH108
            file.unlink()

    monkeypatch.setattr(checked_bytes, "_pieces", removed_meanwhile)
    assert fetched() == sharded()


@pytest.mark.parametrize("names_hashes", [True, False], ids=["hashes", "no hashes"])
@pytest.mark.parametrize("name", ["tokenizer.json", SHARDS[0]])
def test_a_body_much_longer_than_listed_is_not_written(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, names_hashes: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.add("org/model", sharded())
    hub.names_hashes = names_hashes
    hub.faults = [answer(hub, name, {}, bytes(40_000_000))]
    with pytest.raises(HubUnreachableError, match=rf"does \(more bytes came for {name} of org/model than"):
        fetched()
    assert max(request.sent for request in hub.requests if request.path.endswith(name)) < 40_000_000
    assert list((tmp_path / "hub").rglob("*.incomplete")) == []
    hub.faults.clear()
    assert fetched() == sharded()


def test_a_config_much_longer_than_listed_is_not_planned(hub: Hub, tiny_llama: Path) -> None:
    hub.add("org/model", tiny_llama)
    told = {"X-Repo-Commit": hub.repositories["org/model"].refs["main"], "ETag": '"' + "a" * 40 + '"'}
    hub.faults = [Fault("/config.json$", status=200, headers=told, body=bytes(3_000_000))]
    with (
        pytest.raises(HubUnreachableError, match=r"more bytes came for config.json of org/model than"),
        fetch_headers("org/model", revision=None, token=None, check=accept),
    ):
        pass
