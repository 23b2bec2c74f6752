"""compressed-tensors checkpoints of others, read, computed, planned and written again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from tests.formats.compressed_tensors.packed_files import Recipe, Tensors, write_checkpoint
from tests.sample_models import plain_logits

TOKENS = torch.arange(2, 34).reshape(2, 16)
RECIPES = [
    *(Recipe(bits=bits) for bits in (2, 5, 6)),
    Recipe(bits=8, group_size=-1, dtype=torch.float16),
    Recipe(sym=False),
    Recipe("llama_tied", bits=3),
    Recipe("qwen2", bits_of={"down_proj": 8, "0.self_attn.q_proj": 5}),
    Recipe("mixtral"),
]


@pytest.fixture(scope="module", params=RECIPES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, Tensors]:
    folder = tmp_path_factory.mktemp("checkpoint")
    return request.param, folder, write_checkpoint(request.param, folder)


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def test_logits_are_those_of_the_weights_that_it_stands_for(made: tuple[Recipe, Path, Tensors]) -> None:
    _, folder, _ = made
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(folder / "dense", dtype=torch.float32), TOKENS)
    actual = plain_logits(loaded(folder / "packed", "float32").model, TOKENS)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_every_byte_is_planned(made: tuple[Recipe, Path, Tensors]) -> None:
    recipe, folder, tensors = made
    result = loaded(folder / "packed")
    memory, layers = result.memory, result.report.layers
    assert memory.predicted_footprint_after == memory.footprint_after == memory_footprint(result.model)
    assert memory.predicted_disk_after == sum(tensor.nbytes for tensor in tensors.values())
    ours = {name for name, module in result.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {layer.name for layer in layers} == ours
    assert {layer.bits for layer in layers} == {recipe.bits, *recipe.bits_of.values()}


def test_saved_again_it_has_the_same_tensors(made: tuple[Recipe, Path, Tensors], tmp_path: Path) -> None:
    recipe, folder, tensors = made
    result = loaded(folder / "packed")
    result.save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert result.model.config.quantization_config.to_dict() == recipe.config
