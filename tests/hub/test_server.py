"""The test Hub answers what huggingface_hub asks, beyond what qtoolkit itself asks."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from tests.hub.server import Hub

FILES = {"config.json": b"{}", "model.safetensors": bytes(300_000), "original/notes.txt": b"n"}


def test_a_whole_snapshot_arrives(hub: Hub) -> None:
    hub.add("org/model", FILES)
    folder = Path(snapshot_download("org/model"))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_api_states_sizes_and_hashes(hub: Hub) -> None:
    hub.add("org/model", FILES)
    siblings = HfApi().model_info("org/model", files_metadata=True).siblings or []
    assert {file.rfilename: file.size for file in siblings} == {name: len(content) for name, content in FILES.items()}
    assert [file.rfilename for file in siblings if file.lfs] == ["model.safetensors"]


def test_an_unknown_repository_is_not_found(hub: Hub) -> None:
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url).model_info("org/nothing")
