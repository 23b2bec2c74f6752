"""AWQ checkpoints, read, computed, planned, evaluated and written again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from tests.formats.awq.awq_files import Recipe, Tensors, write_checkpoint
from tests.sample_models import plain_logits

TOKENS = torch.arange(2, 34).reshape(2, 16)
RECIPES = [
    Recipe(),
    Recipe("llama_tied", group_size=64, dtype=torch.bfloat16),
    Recipe("qwen2", group_size=-1, left=("k_proj", "1.mlp.down")),
    Recipe("mixtral", left=("gate",)),
    Recipe(head=True),
]
Made = tuple[Recipe, Path, Tensors]


@pytest.fixture(scope="module", params=RECIPES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("checkpoint")
    return request.param, folder, write_checkpoint(request.param, folder)


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def test_logits_are_those_of_the_weights_that_it_stands_for(made: Made) -> None:
    folder = made[1]
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(folder / "dense", dtype=torch.float32), TOKENS)
    actual = plain_logits(loaded(folder / "packed", "float32").model, TOKENS)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_transformers_reads_the_same_once_qtoolkit_is_imported(tmp_path: Path) -> None:
    write_checkpoint(Recipe(), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.float32)
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    ours = loaded(tmp_path / "packed", "float32").model
    torch.testing.assert_close(plain_logits(model, TOKENS), plain_logits(ours, TOKENS))


def test_every_byte_is_planned(made: Made) -> None:
    _, folder, tensors = made
    result = loaded(folder / "packed")
    memory, layers = result.memory, result.report.layers
    assert memory.predicted_footprint_after == memory.footprint_after == memory_footprint(result.model)
    assert memory.predicted_disk_after == sum(tensor.nbytes for tensor in tensors.values())
    ours = {name for name, module in result.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {layer.name for layer in layers} == ours
    assert len(ours) == sum(name.endswith(".qweight") for name in tensors)
    assert {layer.bits for layer in layers} == {4}


def test_the_report_says_what_the_file_says(made: Made) -> None:
    recipe, folder, _ = made
    report = loaded(folder / "packed").report
    assert report.method == "awq"
    assert report.settings == {"bits": 4, "group_size": recipe.group_size, "sym": False}


def test_saved_again_it_has_the_same_tensors_and_config(made: Made, tmp_path: Path) -> None:
    recipe, folder, tensors = made
    loaded(folder / "packed").save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization_config"] == recipe.config
