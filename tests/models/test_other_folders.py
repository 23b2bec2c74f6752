"""Folders as other people leave them: two sets of weights, stale indexes, Git LFS pointers, empty files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from qtoolkit.checkpoints.remedy import sound_copy
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.hub.headers import fetch_headers
from qtoolkit.hub.repository import fetch
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.fake_hub.server import Hub
from tests.hub.hub_models import accept, ignore_progress
from tests.sample_models import random_model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
LFS = "is a Git LFS pointer, not the file itself: run `git lfs pull` there"
LOCAL = "save it anew, or copy it from where it came from"


def open_model(folder: Path) -> Checkpoint:
    return open_checkpoint(folder, revision=None, token=None, tokenizer=None, on_progress=lambda _: None)


def refusal(folder: Path, kind: type[SourceError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        open_model(folder).skeleton  # noqa: B018 it is built when it is asked for
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "download" not in message
    return message


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in one file, and in shards."""
    single, sharded = (tmp_path_factory.mktemp(name) for name in ("single", "sharded"))
    model = random_model("llama")
    model.save_pretrained(single)
    model.save_pretrained(sharded, max_shard_size="50KB")
    return single, sharded


@pytest.fixture
def single(saved: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "single"))


@pytest.fixture
def sharded(saved: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved[1], tmp_path / "sharded"))


@pytest.mark.parametrize("place", ["config.json", "quantize_config.json"])
@pytest.mark.parametrize(
    "others", [("gptq-32g.safetensors",), (SINGLE,)], ids=["another of its kind", "the usual name"]
)
def test_of_two_sets_of_weights_the_one_that_the_config_names_is_read(
    single: Path, hub: Hub, place: str, others: tuple[str, ...]
) -> None:
    named = "gptq-128g.safetensors"
    content = (single / SINGLE).read_bytes()
    (single / SINGLE).unlink()
    for name in (named, *others):
        (single / name).write_bytes(content)
    values = json.loads((single / "config.json").read_text())
    how = {"quant_method": "gptq", "bits": 4, "group_size": 128, "model_file_base_name": "gptq-128g"}
    if place == "config.json":
        values["quantization_config"] = how
        (single / "config.json").write_text(json.dumps(values))
    else:
        (single / place).write_text(json.dumps(how))
    checkpoint = open_checkpoint(
        single, revision=None, token=None, tokenizer=None, on_progress=lambda _: None, quantized=True
    )
    assert {tensor.file.name for tensor in checkpoint.tensors.values() if hasattr(tensor, "file")} == {named}
    assert checkpoint.disk_size == len(content)

    hub.add("org/two", {file.name: file.read_bytes() for file in single.iterdir()})
    with fetch_headers("org/two", revision=None, token=None, check=accept) as headers:
        assert {file.name for file in headers.folder.glob("*.safetensors")} == {named}
    fetch("org/two", on_progress=ignore_progress, check=accept)
    assert {name for name in hub.downloads() if name.endswith(".safetensors")} == {named}


@pytest.mark.parametrize(
    "name", ["", "../single/model", "gone", 5, None, ["a"], "x" * 5000, "a\0b", "\ud800"], ids=repr
)
def test_a_name_of_no_file_there_is_passed_over(single: Path, name: object) -> None:
    (single / "quantize_config.json").write_text(json.dumps({"bits": 4, "model_file_base_name": name}))
    open_checkpoint(single, revision=None, token=None, tokenizer=None, on_progress=lambda _: None, quantized=True)


def test_two_sets_that_nothing_tells_apart_are_told_to_be_two(single: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(single / SINGLE, single / name)
    (single / SINGLE).unlink()
    message = refusal(single)
    assert "stands in a.safetensors and in b.safetensors: leave one set of weights there" in message


def test_a_second_copy_in_another_naming_is_no_second_set(single: Path) -> None:
    (single / SINGLE).rename(single / "weights.safetensors")
    save_file({"layers.0.attention.wq.weight": torch.ones(2)}, single / "consolidated.safetensors")
    assert len(open_model(single).tensors) == len(load_file(single / "weights.safetensors"))


def test_an_index_of_files_that_are_gone_beside_whole_shards_is_to_be_removed(sharded: Path) -> None:
    for file in sorted(sharded.glob("*.safetensors")):
        file.rename(sharded / f"part-{file.name}")
    message = refusal(sharded)
    assert message.startswith(f"{sharded / INDEX} names ")
    assert message.endswith("and the files that are hold every tensor: remove the index")
    (sharded / INDEX).unlink()
    assert open_model(sharded).skeleton is not None


def test_an_index_that_leaves_out_a_shard_is_to_be_removed(sharded: Path) -> None:
    values = json.loads((sharded / INDEX).read_text())
    last = max(values["weight_map"].values())
    values["weight_map"] = {name: file for name, file in values["weight_map"].items() if file != last}
    (sharded / INDEX).write_text(json.dumps(values))
    assert refusal(sharded).endswith(f"{last} holds some and the index does not name it: remove the index")
    (sharded / INDEX).unlink()
    assert open_model(sharded).skeleton is not None


def test_a_shard_that_is_gone_is_not_blamed_on_the_index(sharded: Path) -> None:
    next(sharded.glob("*.safetensors")).unlink()
    message = refusal(sharded)
    assert "which is no file beside it" in message and message.endswith(LOCAL)


@pytest.mark.parametrize("name", [SINGLE, "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_told_as_one(single: Path, name: str) -> None:
    (single / name).write_bytes(POINTER)
    assert refusal(single, SourceError if name == "tokenizer.json" else CheckpointError) == f"{single / name} {LFS}"


def test_a_shard_that_is_a_git_lfs_pointer_is_told_as_one(sharded: Path) -> None:
    file = max(sharded.glob("*.safetensors"))
    file.write_bytes(POINTER)
    assert refusal(sharded) == f"{file} {LFS}"


def test_a_gguf_file_that_is_a_git_lfs_pointer_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(POINTER)
    assert refusal(tmp_path / "a.gguf", SourceError) == f"{tmp_path / 'a.gguf'} {LFS}"


@pytest.mark.parametrize(
    ("content", "told"), [(b"", "is empty"), (b"abc", "has 3 bytes, too few for a header")], ids=["empty", "short"]
)
def test_a_file_without_a_header_is_told_as_it_is(single: Path, content: bytes, told: str) -> None:
    (single / SINGLE).write_bytes(content)
    assert refusal(single) == f"{single / SINGLE} {told}: {LOCAL}"


def test_what_helps_depends_on_where_the_file_lies(single: Path, hub: Hub) -> None:
    hub.add("org/name", {file.name: file.read_bytes() for file in single.iterdir()})
    snapshot = fetch("org/name", on_progress=ignore_progress, check=accept).folder
    cached = Path(constants.HF_HUB_CACHE) / "models--org--name"
    assert sound_copy(single / SINGLE) == LOCAL
    assert sound_copy(snapshot / SINGLE) == f"remove {cached} and download it again, or name another revision"
    with fetch_headers("org/name", revision=None, token=None, check=accept) as headers:
        assert sound_copy(headers.folder) == "it is so on the Hub: name another revision"
    assert sound_copy(None) == "load it anew"


def test_a_config_of_a_text_encoder_and_a_decoder_is_refused(single: Path) -> None:
    values = json.loads((single / "config.json").read_text())
    parts = {"text_encoder": "t5", "audio_encoder": "encodec", "decoder": "musicgen_decoder"}
    values |= {part: {"model_type": kind} for part, kind in parts.items()}
    (single / "config.json").write_text(json.dumps(values | {"model_type": "musicgen", "architectures": None}))
    message = refusal(single, UnsupportedModelError)
    assert message.startswith(f"{single} is no causal language model alone (Multiple valid text configs were found")
    assert message.endswith("name one that AutoModelForCausalLM or AutoModelForImageTextToText runs")
