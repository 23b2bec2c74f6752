"""A `.gguf` file as a source: every weight, read by itself, is what transformers makes of it with the whole file."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import qtoolkit as qt
from qtoolkit.checkpoints.expanded_tensors import expanding_bytes
from qtoolkit.checkpoints.gguf_header import read_gguf
from qtoolkit.checkpoints.gguf_types import STORED_TYPES
from qtoolkit.checkpoints.gguf_writing import Value, write_gguf
from qtoolkit.errors import CheckpointError, SourceError, UnsupportedModelError
from qtoolkit.formats.gguf.file_plan import plan_file
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.models.gguf_models import split, write_nemotron, write_types
from tests.models.gguf_models import write_gguf as write_small
from tests.sample_models import dequantized, random_model

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def open_model(file: Path) -> Checkpoint:
    return open_checkpoint(file, revision=None, token=None, tokenizer=None, on_progress=lambda _: None)


def assert_as_transformers_has_it(file: Path, checkpoint: Checkpoint) -> None:
    assert checkpoint.expand is None
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, **dequantized()
    )
    expected = {name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys}
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor[...].view(torch.int16), expected[name].view(torch.int16)), name


def test_every_type_is_expanded_as_transformers_does(tmp_path: Path) -> None:
    """Random blocks of each, all of which are finite."""
    file = tmp_path / "a.gguf"
    kinds = write_types(file, [type_.name for type_ in STORED_TYPES.values()])
    assert kinds == {type_.name for type_ in STORED_TYPES.values()}
    assert_as_transformers_has_it(file, open_model(file))


def test_the_sizes_of_blocks_are_those_of_the_gguf_package() -> None:
    for number, type_ in STORED_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (type_.name, type_.block_size, type_.block_bytes)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "llama3", **LLAMA3},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.5},
        {"rope_type": "default"},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_the_scaling_of_a_rope_is_read(rope: dict[str, Any], tmp_path: Path) -> None:
    """By values of the header, and by the factors of Llama 3, which are a tensor."""
    stored = {"rope_theta": 500_000.0, **rope}
    write_model(tmp_path / "a.gguf", "llama", rope_parameters=stored)
    checkpoint = open_model(tmp_path / "a.gguf")
    found = checkpoint.config.rope_parameters
    assert found == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in stored.items()
    }
    assert not any("rope" in note for note in checkpoint.notes)


def test_factors_of_a_rope_that_nothing_gives_are_told(tmp_path: Path) -> None:
    """They are another's than Llama 3's."""
    file = tmp_path / "a.gguf"
    write_model(file, "llama", rope_parameters={"rope_theta": 10000.0, "rope_type": "llama3", **LLAMA3})
    place = read_gguf(file).tensors["rope_freqs.weight"]
    with file.open("r+b") as stream:
        stream.seek(place.start)
        stream.write(np.linspace(1, 5, *place.shape, dtype=np.float32).tobytes())
    checkpoint = open_model(file)
    assert checkpoint.config.rope_parameters["rope_type"] == "default"
    assert any("the scaling of the rope (rope_freqs.weight) is not known here" in note for note in checkpoint.notes)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_model_in_parts_is_read_from_all_of_them(first: int, tmp_path: Path) -> None:
    """Whichever part is named."""
    whole, parts = tmp_path / "a.gguf", tmp_path / "parts"
    write_model(whole, "llama")
    split(whole, parts, 3)
    here, there = open_model(parts / f"a-{first:05d}-of-00003.gguf"), open_model(whole)
    assert here.tensors.keys() == there.tensors.keys()
    assert all(torch.equal(tensor[...], there.tensors[name][...]) for name, tensor in here.tensors.items())
    assert here.skeleton_notes == ()
    assert not here.config.tie_word_embeddings
    assert here.fingerprint() == there.fingerprint()


@pytest.mark.parametrize("parts", [1, 3])
def test_a_folder_of_one_model_alone_is_read_as_its_file(parts: int, tmp_path: Path) -> None:
    whole, folder = tmp_path / "a.gguf", tmp_path / "folder"
    write_model(whole, "llama")
    split(whole, folder, parts)
    (folder / "mmproj-F16.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("# A model")
    here, there = open_model(folder), open_model(whole)
    assert here.tensors.keys() == there.tensors.keys()
    assert all(torch.equal(tensor[...], there.tensors[name][...]) for name, tensor in here.tensors.items())
    assert here.fingerprint() == there.fingerprint()
    # A config that names no file leaves the choice to whoever asks.
    (folder / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"holds 1 \.gguf model: name one of"):
        open_model(folder)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "a.gguf", "llama_tied")
    split(tmp_path / "a.gguf", tmp_path, 3)
    (tmp_path / "a-00002-of-00003.gguf").unlink()
    with pytest.raises(
        CheckpointError, match=r"is one of 3 files of a model, and a-00002-of-00003\.gguf is missing: get"
    ):
        open_model(tmp_path / "a-00001-of-00003.gguf")


def test_a_part_that_holds_what_another_holds_is_refused(tmp_path: Path) -> None:
    write_small(tmp_path / "a-00001-of-00002.gguf")
    write_small(tmp_path / "a-00002-of-00002.gguf")
    with pytest.raises(qt.QToolkitError, match=r"two of the 2 parts of .* hold one tensor"):
        open_model(tmp_path / "a-00001-of-00002.gguf")


def test_a_plan_counts_the_bytes_that_are_stored(tmp_path: Path) -> None:
    write_types(tmp_path / "a.gguf", ["Q4_K"])
    plan = qt.plan(tmp_path / "a.gguf", "absmax", device="cpu")
    assert plan.source.stored_as == "Q4_K and F32"
    (extra,) = (term for term in plan.phases[0].memory if term.name == "weights while they are expanded")
    assert extra.size == expanding_bytes(open_model(tmp_path / "a.gguf").tensors) > 2**16
    assert any("stored as Q4_K and F32," in note for note in plan.notes)


def test_weights_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path) -> None:
    """A scale of float16 can be infinite."""
    file = tmp_path / "a.gguf"
    write_types(file, ["Q8_0"])
    checkpoint = open_model(file)
    name, tensor = next((name, tensor) for name, tensor in checkpoint.tensors.items() if "q_proj" in name)
    with file.open("r+b") as stream:
        stream.seek(tensor.start)
        stream.write(np.float16("inf").tobytes())
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights .Q8_0 at byte"):
        open_model(file).tensors[name][...]


@pytest.mark.parametrize("method", ["absmax", "gptq"])
def test_a_method_makes_of_it_what_it_makes_of_the_expanded_folder(method: str, tmp_path: Path) -> None:
    """As a whole, and block by block."""
    file = tmp_path / "a.gguf"
    write_types(file, ["Q4_K", "Q6_K"])
    qt.load(file, device="cpu").save_pretrained(tmp_path / "folder")
    ids = [[row * 7 + step for step in range(16)] for row in range(4)]
    config = qt.GPTQ(group_size=32, calibration=ids, num_samples=4, seq_len=16) if method == "gptq" else method
    for source, output in ((file, "ours"), (tmp_path / "folder", "theirs")):
        qt.quantize(source, config, output=tmp_path / output, device="cpu")
    ours, theirs = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("ours", "theirs"))
    assert ours == theirs


def test_a_file_without_a_number_that_its_model_needs_is_refused(tmp_path: Path) -> None:
    list(write_gguf(tmp_path / "a.gguf", {"general.architecture": Value("string", "llama")}, (), torch.empty))
    with pytest.raises(
        CheckpointError, match=r"describes no llama model: .*it has no llama.block_count\): name another"
    ):
        open_model(tmp_path / "a.gguf")


def test_a_model_of_which_no_files_are_written_is_expanded_as_a_whole(tmp_path: Path) -> None:
    """By transformers, which knows further ones."""
    file = tmp_path / "a.gguf"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING["nemotron"](vocab_size=256, num_key_value_heads=2, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    write_nemotron(file, model)
    checkpoint = open_model(file)
    assert checkpoint.expand is not None
    assert any("expanded to bfloat16 by transformers" in note for note in checkpoint.notes)
    for name, weight in checkpoint.expand().items():
        assert torch.allclose(weight, model.state_dict()[name], atol=1e-2), name
    split(file, tmp_path / "parts", 2)
    with pytest.raises(UnsupportedModelError, match="nemotron models are read from one alone: join them"):
        open_model(tmp_path / "parts" / "a-00001-of-00002.gguf")


def test_a_model_that_nothing_reads_is_refused_with_what_to_name_instead(tmp_path: Path) -> None:
    list(write_gguf(tmp_path / "a.gguf", {"general.architecture": Value("string", "arctic")}, (), torch.empty))
    with pytest.raises(
        SourceError, match=r"neither qtoolkit nor transformers reads .*: name the model's full-precision"
    ):
        open_model(tmp_path / "a.gguf")


def write_model(file: Path, architecture: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Write a random model as F16 with our own writer; its weights, whose norms and biases are not all alike."""
    model = random_model(architecture, dtype=torch.float16, **changes)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.copy_(torch.randint(1, 9, weight.shape) / 8)
    weights = model.state_dict()
    plan = plan_file(model.config, {name: tuple(weight.shape) for name, weight in weights.items()}, None, "F16", {})
    planned = {tensor.entry.name: tensor for tensor in plan.tensors}
    list(write_gguf(file, plan.values, plan.entries, lambda entry: planned[entry.name].made(weights.__getitem__)))
    return weights
