"""A repository without weights that can be read safely is refused before a weight is downloaded."""

import json

import pytest

from qtoolkit.errors import (
    CheckpointError,
    DiskFullError,
    QToolkitError,
    SourceError,
    UnsafeCheckpointError,
    UnsupportedModelError,
)
from qtoolkit.hub.repository import fetch
from tests.fake_hub.server import Hub
from tests.hub.hub_models import SHARDS, accept, ignore_progress, sharded, single

CONFIG = {"config.json": b"{}", "tokenizer.json": b"{}"}


@pytest.mark.parametrize(
    ("files", "error", "told"),
    [
        pytest.param(CONFIG | {"pytorch_model.bin": b"w"}, UnsafeCheckpointError, "pickled weights only", id="bin"),
        pytest.param(CONFIG | {"consolidated.00.pth": b"w"}, UnsafeCheckpointError, "unpickling runs code", id="pth"),
        pytest.param(CONFIG | {"model.ckpt": b"w"}, UnsafeCheckpointError, "ask its author", id="ckpt"),
        pytest.param(
            {"b-Q8_0.gguf": b"w", "a-Q4_0.gguf": b"w"},
            UnsupportedModelError,
            r"holds 2 \.gguf models: name one of org/model:Q4_0 \(1 bytes\), org/model:Q8_0 \(1 bytes\)",
            id="gguf",
        ),
        pytest.param(
            {"adapter_model.safetensors": b"w"},
            UnsupportedModelError,
            "merge it into its base model",
            id="an adapter without a config",
        ),
        pytest.param(CONFIG, CheckpointError, r"no \*\.safetensors weights", id="no weights"),
        pytest.param(
            CONFIG | {"unet/model.safetensors": b"w"}, CheckpointError, "at its top level", id="weights in a folder"
        ),
        pytest.param({"model.safetensors": b"w"}, CheckpointError, "no config.json", id="no config"),
    ],
)
def test_by_the_file_names_alone(hub: Hub, files: dict[str, bytes], error: type[SourceError], told: str) -> None:
    hub.add("org/model", {"README.md": b"", **files})
    _refused(error, told)
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("index", "told"),
    [
        pytest.param({"weight_map": {"a": SHARDS[0], "b": "x.safetensors"}}, "names 'x.safetensors'", id="absent"),
        pytest.param({"weight_map": {"a": "pytorch_model.bin"}}, "names 'pytorch_model.bin'", id="a pickle"),
        pytest.param({"weight_map": {"a": "../x.safetensors"}}, "names '../x.safetensors'", id="another folder"),
        pytest.param({"weight_map": {"a": 1}}, "names 1", id="a number"),
        pytest.param({"weight_map": {"a": ["x"]}}, r"names \['x'\] as a weight file", id="a list"),
        pytest.param({"weight_map": {}}, "names no weight file", id="empty"),
        pytest.param({"weight_map": 3}, "no weight_map", id="no map"),
        pytest.param([], "no weight_map", id="no object"),
        pytest.param({}, "no weight_map", id="nothing"),
    ],
)
def test_by_a_lying_index(hub: Hub, index: object, told: str) -> None:
    content = json.dumps(index).encode()
    hub.add("org/model", sharded() | {"model.safetensors.index.json": content, "pytorch_model.bin": b"w"})
    _refused(CheckpointError, told)
    assert not {*SHARDS, "pytorch_model.bin"} & set(hub.downloads())


def test_by_a_truncated_index(hub: Hub) -> None:
    hub.add("org/model", sharded() | {"model.safetensors.index.json": b'{"weight_map": {'})
    _refused(CheckpointError, "no weight_map")


def test_by_the_disk(hub: Hub) -> None:
    hub.add("org/model", single())
    hub.claimed_sizes = {"model.safetensors": 4 * 10**12}
    _refused(DiskFullError, r"org/model needs 4\.0 TB in .*, where .* are free: free some, or set HF_HOME")
    assert "model.safetensors" not in hub.downloads()


def _refused(error: type[QToolkitError], told: str) -> None:
    with pytest.raises(error, match=told) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    assert "\n" not in str(caught.value)
