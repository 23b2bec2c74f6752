"""Whatever a person calls a model is opened as a checkpoint: checked, not read, and left as it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.fake_hub.server import Fault, Hub
from tests.models.gguf_models import write_gguf
from tests.sample_models import random_model


def open_model(model: Any, **options: Any) -> Checkpoint:
    settings = {"revision": None, "token": None, "tokenizer": None, "on_progress": lambda _: None}
    return open_checkpoint(model, **{**settings, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in float32 without a tokenizer."""
    random_model("llama", torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **values: Any) -> None:
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({key: value for key, value in {**found, **values}.items() if value is not None}))


@pytest.mark.parametrize("given", ["text", "path", "relative", "home"])
def test_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    names = {"text": str(folder), "path": folder, "relative": "model", "home": "~/model"}
    checkpoint = open_model(names[given])
    assert (checkpoint.name, checkpoint.format) == (str(names[given]), "safetensors")
    assert checkpoint.path is not None and checkpoint.path.samefile(folder)
    assert (checkpoint.commit_hash, checkpoint.model_class) == (None, None)
    assert checkpoint.disk_size == (folder / "model.safetensors").stat().st_size
    assert checkpoint.tensors == read_tensors(checkpoint.path / "model.safetensors")
    assert checkpoint.weight_bytes == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())


def test_shards_are_one_model(tiny_llama: Path) -> None:
    files = sorted(tiny_llama.glob("*.safetensors"))
    assert len(files) > 1
    checkpoint = open_model(tiny_llama)
    assert checkpoint.disk_size == sum(file.stat().st_size for file in files)
    assert checkpoint.tensors.keys() == {name for file in files for name in load_file(file)}


def test_one_file_goes_before_an_index_as_in_transformers(folder: Path, tiny_llama: Path) -> None:
    """A model that was saved over a sharded one leaves the old index beside it."""
    shutil.copy(tiny_llama / "model.safetensors.index.json", folder)
    assert open_model(folder).tensors == read_tensors(folder / "model.safetensors")
    model = LlamaForCausalLM.from_pretrained(folder)
    assert model.state_dict().keys() == open_model(folder).tensors.keys()


def test_weights_of_any_name_are_found(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "sub.safetensors").mkdir()
    assert open_model(folder).tensors == read_tensors(folder / "weights.safetensors")


def test_a_folder_goes_before_a_hub_id(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.parent / "org")
    (folder.parent / "org").rename(folder.parent / "name")
    assert open_model("name").path == Path("name")
    assert hub.requests == []


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_hub_model_is_pinned_to_its_commit(folder: Path, hub: Hub) -> None:
    commit_hash = hub.add("org/name", files_of(folder)).refs["main"]
    checkpoint = open_model("org/name")
    assert (checkpoint.name, checkpoint.format) == ("org/name", "safetensors")
    assert checkpoint.commit_hash == commit_hash
    assert checkpoint.path is not None and checkpoint.path.name == commit_hash


def test_what_came_from_the_cache_is_noted(folder: Path, hub: Hub) -> None:
    hub.add("org/name", files_of(folder))
    before = open_model("org/name").notes
    hub.faults = [Fault("/api/models", status=503)]
    (note,) = set(open_model("org/name").notes) - set(before)
    assert "was taken from the local cache" in note


GGUF_NOTE = (
    "its weights are stored as F16, 202.9 kB, and are expanded to bfloat16, 202.9 kB, one by one as they are read: all "
    "figures compare with the expanded model"
)


def test_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "a.GGUF"
    written = write_gguf(file)
    checkpoint = open_model(file)
    assert (checkpoint.name, checkpoint.path, checkpoint.format) == (str(file), file, "gguf")
    assert checkpoint.disk_size == file.stat().st_size
    assert (checkpoint.dtype, checkpoint.notes) == (torch.bfloat16, (GGUF_NOTE,))
    text = checkpoint.tokenizer.convert_ids_to_tokens([5, 6])
    assert checkpoint.tokenizer.convert_tokens_to_ids(text) == [5, 6]
    assert checkpoint.record().num_parameters == sum(array.size for array in written.values())
    for here, there in {"blk.1.ffn_up": "model.layers.1.mlp.up_proj", "token_embd": "model.embed_tokens"}.items():
        expected = torch.from_numpy(written[f"{here}.weight"]).to(torch.bfloat16)
        assert torch.equal(checkpoint.tensors[f"{there}.weight"][...], expected)


def test_a_loaded_model_is_shared_and_left_untouched(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    config, generation = model.config.to_dict(), model.generation_config.to_dict()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    checkpoint = open_model(model)
    checkpoint.skeleton  # noqa: B018 it is built when it is asked for
    assert (checkpoint.name, checkpoint.path, checkpoint.format) == (str(folder), None, "loaded")
    assert (checkpoint.disk_size, checkpoint.dtype, checkpoint.model_class) == (None, torch.float32, LlamaForCausalLM)
    assert {name: tensor.data_ptr() for name, tensor in checkpoint.tensors.items()} == {
        name: tensor.data_ptr() for name, tensor in model.state_dict().items()
    }
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())
    assert model.config.to_dict() == config
    assert model.generation_config.to_dict() == generation
    assert checkpoint.generation_config is not model.generation_config
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not any(parameter.is_meta for parameter in model.parameters())


class OwnLlama(LlamaForCausalLM):
    """A class of the user's own."""


def test_a_loaded_model_keeps_its_class() -> None:
    model = OwnLlama(random_model("llama").config)
    assert type(open_model(model).skeleton) is OwnLlama


@pytest.mark.parametrize(
    ("named", "stored", "expected"),
    [
        ("float32", torch.float32, torch.float32),
        ("float16", torch.float32, torch.float16),
        (None, torch.float32, torch.float32),
        (None, torch.bfloat16, torch.bfloat16),
        (None, torch.float8_e4m3fn, torch.float32),
    ],
    ids=["as named and stored", "as named", "stored float32", "stored bfloat16", "stored in 8 bits"],
)
def test_the_type_is_the_named_one_or_else_the_stored_one(
    folder: Path, named: str | None, stored: torch.dtype, expected: torch.dtype
) -> None:
    tensors = load_file(folder / "model.safetensors")
    # Norms in another type do not count against the rest.
    kept = {name: tensor.to(torch.float64 if "norm" in name else stored) for name, tensor in tensors.items()}
    if stored.itemsize == 1:
        kept = {name: tensor.to(stored) for name, tensor in tensors.items()}
    save_file(kept, folder / "model.safetensors")
    change(folder / "config.json", dtype=named)
    checkpoint = open_model(folder)
    assert checkpoint.dtype == expected
    noted = any(note.startswith(f"loaded in {expected} as the config says") for note in checkpoint.notes)
    assert noted == (named is not None and stored != expected)


def test_the_tokenizer_beside_the_model(tiny_llama: Path) -> None:
    text = "What a tokenizer does."
    expected = AutoTokenizer.from_pretrained(tiny_llama)(text)["input_ids"]
    assert open_model(tiny_llama).tokenizer(text)["input_ids"] == expected
    assert open_model(LlamaForCausalLM.from_pretrained(tiny_llama)).tokenizer(text)["input_ids"] == expected


def test_the_tokenizer_of_a_loaded_hub_model_is_found_in_the_cache(tiny_llama: Path, hub: Hub) -> None:
    hub.add("org/name", files_of(tiny_llama))
    cached = open_model("org/name")
    model = random_model("llama")
    model.name_or_path = "org/name"
    found = open_model(model).tokenizer
    assert found.get_vocab() == cached.tokenizer.get_vocab()


def test_without_a_tokenizer_there_is_none_and_a_note(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model of no name must not be given the tokenizer of the folder that Python happens to run in.
    monkeypatch.chdir(folder)
    change(folder / "vocab.json", a=1)
    for checkpoint in (open_model(random_model("llama")), open_without_vocabulary(folder)):
        assert checkpoint.tokenizer is None
        assert any("no tokenizer was found" in note for note in checkpoint.notes)


def open_without_vocabulary(folder: Path) -> Checkpoint:
    (folder / "vocab.json").unlink()
    return open_model(folder)


def test_a_given_tokenizer_is_taken_even_an_empty_one(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    given = Empty()
    write_gguf(tmp_path / "a.gguf")
    for model in (folder, tiny_llama, tmp_path / "a.gguf", random_model("llama")):
        checkpoint = open_model(model, tokenizer=given)
        assert checkpoint.tokenizer is given
        assert not any("tokenizer" in note for note in checkpoint.notes)


def test_the_generation_config_is_kept(folder: Path) -> None:
    assert open_model(folder).generation_config is not None
    (folder / "generation_config.json").unlink()
    assert open_model(folder).generation_config is None
    change(folder / "generation_config.json", do_sample=True, temperature=0.4, eos_token_id=[2, 7])
    found = open_model(folder).generation_config
    assert found is not None
    assert found.to_diff_dict() == GenerationConfig.from_pretrained(folder).to_diff_dict()
    assert (found.temperature, found.eos_token_id) == (0.4, [2, 7])
