"""Whole `.gguf` files of small models: transformers reads back each weight, though llama.cpp's layout is another."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from qtoolkit.checkpoints.gguf_architectures import architecture_of
from qtoolkit.checkpoints.gguf_places import places_of
from qtoolkit.checkpoints.gguf_writing import write_gguf
from qtoolkit.formats.gguf.file_plan import FilePlan, plan_file
from qtoolkit.formats.gguf.ropes import rope_tensors
from tests.sample_models import dequantized, random_model

GEMMA = {"query_pre_attn_scalar": 64, "num_hidden_layers": 6, "sliding_window": 8}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_tied": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 128},  # transformers takes no other from a file
    "gemma3_text": GEMMA,
}


@pytest.mark.parametrize("architecture", MODELS)
def test_transformers_reads_back_every_weight(architecture: str, tmp_path: Path) -> None:
    """In F16 nothing is rounded that float16 holds: rows of queries and keys, norms and biases come back in place."""
    model = sample(architecture)
    plan = planned(model, "F16")
    write(plan, model, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").stat().st_size == plan.nbytes
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, **dequantized()
    ).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.allclose(back[name], weight.float(), atol=1e-6), name


@pytest.mark.parametrize("architecture", MODELS)
def test_names_are_those_of_the_gguf_package(architecture: str) -> None:
    """Compared with its own table of names, for each tensor of the model."""
    gguf = pytest.importorskip("gguf")
    model = sample(architecture)
    found = architecture_of(model.config)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == found.name)
    table = gguf.get_tensor_name_map(number, model.config.num_hidden_layers)
    for name in model.state_dict():
        (place,) = places_of(name, found)
        assert place.name == table.get_name(name, try_suffixes=(".weight", ".bias"))


def test_rope_factors_are_those_of_transformers() -> None:
    """Transformers divides each frequency by them."""
    model = random_model("llama", rope_parameters=LLAMA3)
    plain = random_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    expected = plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq
    assert torch.allclose(torch.tensor(rope_tensors(model.config)["rope_freqs.weight"]), expected)
    assert rope_tensors(plain.config) == {}
    assert planned(model, "Q8_0").tensors[0].entry.name == "rope_freqs.weight"


@pytest.mark.parametrize(("architecture", "window"), [("mistral", 8), ("gemma3_text", None), ("mistral", None)])
def test_the_context_ends_where_llama_cpp_would_compute_otherwise(architecture: str, window: int | None) -> None:
    """It lets each token of a Mistral attend to all before it, and knows the window of Gemma 3 alone."""
    changes = MODELS[architecture] | ({"sliding_window": window} if architecture == "mistral" else {})
    model = random_model(architecture, max_position_embeddings=64, **changes)
    assert planned(model, "Q8_0").values[f"{architecture_of(model.config).name}.context_length"].content == (
        window or 64
    )


def sample(architecture: str) -> Any:
    """A small model with weights that float16 holds, norms and biases that are not all alike."""
    model = random_model(architecture, dtype=torch.float16, **MODELS[architecture])
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.copy_(torch.randint(1, 9, weight.shape) / 8)
    return model


def planned(model: Any, quant_type: str) -> FilePlan:
    """Plan the file of a model without a tokenizer."""
    tied = model.all_tied_weights_keys
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name not in tied}
    return plan_file(model.config, shapes, None, quant_type, {"general.name": "small"})


def write(plan: FilePlan, model: Any, file: Path) -> None:
    """Write the file of a plan."""
    state = model.state_dict()
    by_name = {tensor.entry.name: tensor for tensor in plan.tensors}
    for _ in write_gguf(file, plan.values, plan.entries, lambda entry: by_name[entry.name].made(state.__getitem__)):
        pass
