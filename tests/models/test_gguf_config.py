"""The config that the header of a `.gguf` file describes: what llama.cpp reads in it, and what no model has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.checkpoints.gguf_header import GgufHeader, read_gguf
from qtoolkit.errors import CheckpointError
from qtoolkit.models.gguf_config import config_of_gguf
from qtoolkit.models.opening import open_checkpoint
from tests.models.gguf_models import HEADS, HIDDEN, write_gguf


@pytest.fixture
def header(tmp_path: Path) -> GgufHeader:
    write_gguf(tmp_path / "a.gguf")
    return read_gguf(tmp_path / "a.gguf")


def ropes(header: GgufHeader, **values: Any) -> dict[str, Any]:
    """`rope_parameters` of the file with other values, whose names are written with blanks for dots."""
    changed = {f"llama.{key.replace(' ', '.')}": value for key, value in values.items()}
    shapes = {name: place.shape for name, place in header.tensors.items()}
    config = config_of_gguf(replace(header, values={**header.values, **changed}), "llama", shapes, lambda _: [])
    return dict(config.rope_parameters)


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ({"rope scale_linear": 4.0}, 4.0),
        ({"rope scaling factor": 2.0}, 2.0),
        ({"rope scaling factor": 2.0, "rope scaling type": "linear"}, 2.0),
        ({"rope scale_linear": 0.0}, None),
        ({"rope scaling factor": 2.0, "rope scaling type": "none"}, None),
        ({}, None),
    ],
)
def test_a_rope_is_linear_where_llama_cpp_takes_it_for_that(
    header: GgufHeader, values: dict[str, Any], factor: float | None
) -> None:
    found = ropes(header, **values)
    assert (found["rope_type"], found.get("factor")) == (("linear", factor) if factor else ("default", None))


def test_yarn_without_an_original_length_has_the_context(header: GgufHeader) -> None:
    found = ropes(header, **{"rope scaling type": "yarn", "rope scaling factor": 4.0})
    assert (found["rope_type"], found["original_max_position_embeddings"]) == ("yarn", 128)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention layer_norm_rms_epsilon", float("nan")),
        ("attention layer_norm_rms_epsilon", -1.0),
        ("rope freq_base", float("inf")),
        ("rope freq_base", 0.0),
        ("rope freq_base", -5.0),
        ("rope scaling factor", -1.0),
        ("context_length", 0),
        ("embedding_length", 0),
        ("attention head_count", 0),
        ("rope dimension_count", HIDDEN // HEADS + 2),
    ],
)
def test_what_nothing_can_be_computed_with_is_refused(header: GgufHeader, key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{key.replace(' ', '.')} is "):
        ropes(header, **{key: value})


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_of_more_blocks_than_its_header_tells_is_refused(count: int, tmp_path: Path) -> None:
    """It would be read as a model that was cut."""
    file = tmp_path / "a.gguf"
    write_gguf(file)
    # The name, the type (uint32, number 4), and the value.
    name, kind = b"llama.block_count", (4).to_bytes(4, "little")
    content = file.read_bytes()
    assert content.count(name + kind + (2).to_bytes(4, "little")) == 1
    file.write_bytes(content.replace(name + kind + b"\x02", name + kind + bytes([count])))
    with pytest.raises(CheckpointError):
        open_checkpoint(file, revision=None, token=None, tokenizer=None, on_progress=lambda _: None)
