"""Whatever an index holds, it either names safetensors files beside it or is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtoolkit.errors import CheckpointError
from qtoolkit.hub.repository_files import indexed_files

NAMES = st.sampled_from(["a.safetensors", "b.safetensors", "../a.safetensors", "/a.safetensors", "a.bin", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | NAMES,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("weight_map"), inner),
)
MAPS = st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(), NAMES | JSON)})
WRITTEN = (JSON | MAPS).map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=WRITTEN | st.binary())
def test_any_content(tmp_path: Path, content: bytes) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    try:
        names = indexed_files(index)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert names
        assert all((tmp_path / name).parent == tmp_path and name.endswith(".safetensors") for name in names)


def test_each_file_once(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}))
    assert indexed_files(index) == ("a.safetensors", "b.safetensors")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map":' + "[" * 100_000)
    with pytest.raises(CheckpointError, match="no weight_map"):
        indexed_files(index)
