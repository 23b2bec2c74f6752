"""A `.gguf` file as a source: every weight, read by itself, is what transformers makes of it with the whole file."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.checkpoints.expanded_tensors import expanding_bytes
from qtoolkit.checkpoints.gguf_tensors import LAYOUTS
from qtoolkit.checkpoints.gguf_types import STORED_TYPES
from qtoolkit.checkpoints.gguf_writing import Value, write_gguf
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.formats.gguf.file_plan import plan_file
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.opening import open_checkpoint
from tests.models.gguf_models import split, write_types
from tests.models.gguf_models import write_gguf as write_small
from tests.sample_models import dequantized, random_model

GEMMA = {"query_pre_attn_scalar": 64, "num_hidden_layers": 6, "sliding_window": 8}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
BIASES = {"attention_bias": True, "mlp_bias": True}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_tied": {},
    "qwen2": {},
    "qwen3": {"head_dim": 128},  # transformers takes no other from a file
    "gemma3_text": GEMMA,
}


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


@pytest.mark.parametrize("architecture", MODELS)
def test_every_architecture_is_read_as_transformers_does(architecture: str, tmp_path: Path) -> None:
    """Rows of queries and keys, and their biases, come back in order; norms lose what was added to them."""
    file = tmp_path / "a.gguf"
    model = write_model(file, architecture, **MODELS[architecture])
    checkpoint = open_model(file)
    assert_as_transformers_has_it(file, checkpoint)
    for name, tensor in checkpoint.tensors.items():
        assert torch.allclose(tensor[...].float(), model[name].float(), atol=1e-2), name


@pytest.mark.parametrize(("architecture", "changes"), [("gpt2", {}), ("qwen3", {"head_dim": 32}), ("llama", BIASES)])
def test_what_transformers_takes_from_its_defaults_is_read(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """It loads neither of the first two, and the third without its biases; GPT-2's matrices are turned back, too."""
    model = write_model(tmp_path / "a.gguf", architecture, **changes)
    checkpoint = open_model(tmp_path / "a.gguf")
    assert checkpoint.skeleton_notes == ()
    tied = checkpoint.skeleton.all_tied_weights_keys
    assert checkpoint.tensors.keys() == model.keys() - set(tied)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor[...], model[name].bfloat16()), name


@pytest.mark.parametrize(
    ("rope", "told"),
    [
        ({"rope_type": "linear", "factor": 2.0}, "'linear'"),
        ({"rope_type": "llama3", **LLAMA3}, r"rope_freqs\.weight"),
        ({"rope_type": "default"}, None),
    ],
)
def test_a_scaled_rope_which_transformers_does_not_read_is_told(
    rope: dict[str, Any], told: str | None, tmp_path: Path
) -> None:
    write_model(tmp_path / "a.gguf", "llama", rope_parameters={"rope_theta": 10000.0, **rope})
    notes = "\n".join(open_model(tmp_path / "a.gguf").notes)
    found = re.search(r"the scaling of the rope \((.*)\) is not read by transformers", notes)
    assert bool(found) == bool(told)
    assert found is None or re.fullmatch(str(told), found[1])


def test_every_layout_is_of_an_architecture_of_the_gguf_package() -> None:
    assert LAYOUTS.keys() <= set(gguf.MODEL_ARCH_NAMES.values())


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


def test_a_file_without_a_weight_of_its_model_is_refused(tmp_path: Path) -> None:
    list(write_gguf(tmp_path / "a.gguf", {"general.architecture": Value("string", "llama")}, (), torch.empty))
    with pytest.raises(CheckpointError, match="holds no weight of a llama model: name another file"):
        open_model(tmp_path / "a.gguf")


def test_experts_are_still_expanded_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    write_model(file, "qwen3_moe", norm_topk_prob=True)
    checkpoint = open_model(file)
    assert checkpoint.expand is not None
    assert any("expanded to bfloat16 by transformers" in note for note in checkpoint.notes)
    split(file, tmp_path / "parts", 2)
    with pytest.raises(UnsupportedModelError, match="qwen3moe models are read from one alone: join them"):
        open_model(tmp_path / "parts" / "a-00001-of-00002.gguf")


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
