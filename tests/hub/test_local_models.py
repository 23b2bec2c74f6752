"""Models that are whole in the local cache are listed, without a network."""

from pathlib import Path

import pytest

from qtoolkit.hub.cache import local_models
from qtoolkit.hub.repository import fetch
from tests.fake_hub.server import Hub
from tests.hub.hub_models import SHARDS, accept, ignore_progress, sharded, single

COMMIT = "0" * 40


def _cache(home: Path, repository: str, files: dict[str, bytes], commit_hash: str = COMMIT) -> Path:
    """A snapshot as huggingface_hub lays it out."""
    snapshot = home / "hub" / repository / "snapshots" / commit_hash
    snapshot.mkdir(parents=True)
    blobs = home / "hub" / repository / "blobs"
    blobs.mkdir(exist_ok=True)
    for number, (name, content) in enumerate(files.items()):
        (blobs / f"{commit_hash[:4]}{number}").write_bytes(content)
        (snapshot / name).symlink_to(blobs / f"{commit_hash[:4]}{number}")
    return snapshot


def test_what_was_fetched_is_listed(hub: Hub) -> None:
    for name in ("org/zebra", "org/apple", "other/zebra"):
        hub.add(name, sharded())
        fetch(name, on_progress=ignore_progress, check=accept)
    hub.requests.clear()
    assert local_models() == ("org/apple", "org/zebra", "other/zebra")
    assert hub.requests == []


def test_a_name_without_an_organization_is_listed(hub: Hub, tmp_path: Path) -> None:
    _cache(tmp_path, "models--gpt2", single())
    assert local_models() == ("gpt2",)


def test_one_whole_commit_is_enough(hub: Hub, tmp_path: Path) -> None:
    _cache(tmp_path, "models--org--name", {"config.json": b"{}"})
    _cache(tmp_path, "models--org--name", single(), commit_hash="1" * 40)
    assert local_models() == ("org/name",)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({name: data for name, data in single().items() if name != "config.json"}, id="no config"),
        pytest.param({"config.json": b"{}", "tokenizer.json": b"{}"}, id="no weights"),
        pytest.param({"config.json": b"{}", "pytorch_model.bin": b"w"}, id="a pickle"),
        pytest.param({name: data for name, data in sharded().items() if name != SHARDS[1]}, id="a missing shard"),
        pytest.param(sharded() | {"model.safetensors.index.json": b"{"}, id="a damaged index"),
        pytest.param({}, id="an empty snapshot"),
    ],
)
def test_half_a_model_is_not_listed(hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> None:
    _cache(tmp_path, "models--org--half", files)
    assert local_models() == ()


def test_a_weight_whose_blob_is_gone_does_not_count(hub: Hub, tmp_path: Path) -> None:
    snapshot = _cache(tmp_path, "models--org--name", single())
    (snapshot / "model.safetensors").resolve().unlink()
    assert local_models() == ()


def test_other_things_in_the_cache_are_passed_over(hub: Hub, tmp_path: Path) -> None:
    assert local_models() == ()
    _cache(tmp_path, "datasets--org--data", single())
    (tmp_path / "hub" / ".locks").mkdir()
    (tmp_path / "hub" / "models--org--empty").mkdir()
    (tmp_path / "hub" / "models--a-file").write_text("")
    assert local_models() == ()
