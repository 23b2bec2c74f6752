"""The test Hub answers what huggingface_hub asks, beyond what qtoolkit itself asks."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCardData, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import SafeTensorsInfo
from safetensors.torch import save

from tests.fake_hub.server import Hub

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


def test_a_search_is_read_by_huggingface_hub(hub: Hub) -> None:
    weights = save({"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(2)})
    hub.add("org/small", {"config.json": b"{}", "model.safetensors": weights}, downloads=5)
    hub.add("org/large", {"README.md": b"---\nlicense: mit\n---\n"}, downloads=50, gated=True)
    hub.add("org/picture", FILES, pipeline_tag="text-to-image")
    hub.add("other/name", FILES)
    large, small = HfApi().list_models(
        search="ORG/", pipeline_tag="text-generation", sort="downloads", expand=["cardData", "gated", "safetensors"]
    )
    assert (large.id, large.gated, large.card_data) == ("org/large", "auto", ModelCardData(license="mit"))
    assert (small.id, small.gated, small.safetensors) == (
        "org/small", False, SafeTensorsInfo(parameters={"BF16": 15, "F32": 2}, total=17)
    )  # fmt: skip
    assert small.downloads is None
