"""MLX checkpoints of symmetric codes, read, computed, planned and written again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear
from qtoolkit.measure.footprint import memory_footprint
from tests.formats.compressed_tensors.packed_files import Recipe, Tensors
from tests.formats.mlx.affine_files import write_checkpoint
from tests.sample_models import plain_logits

TOKENS = torch.arange(2, 34).reshape(2, 16)
RECIPES = [
    *(Recipe("llama_tied", bits=bits) for bits in (2, 3, 5, 6)),
    Recipe(group_size=64, dtype=torch.float16),
    Recipe("qwen2", bits=8, bits_of={"down_proj": 4, "embed_tokens": 6}),
    Recipe("mixtral"),
]
Made = tuple[Recipe, Path, Tensors, dict[str, Any]]


@pytest.fixture(scope="module", params=RECIPES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("checkpoint")
    return request.param, folder, *write_checkpoint(request.param, folder)


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def test_logits_are_those_of_the_weights_that_it_stands_for(made: Made) -> None:
    folder = made[1]
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(folder / "dense", dtype=torch.float32), TOKENS)
    actual = plain_logits(loaded(folder / "packed", "float32").model, TOKENS)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_every_byte_is_planned(made: Made) -> None:
    recipe, folder, tensors, _ = made
    result = loaded(folder / "packed")
    memory, layers = result.memory, result.report.layers
    assert memory.predicted_footprint_after == memory.footprint_after == memory_footprint(result.model)
    assert memory.predicted_disk_after == sum(tensor.nbytes for tensor in tensors.values())
    ours = {name for name, module in result.model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {layer.name for layer in layers} == ours
    assert {layer.bits for layer in layers} == {recipe.bits, *recipe.bits_of.values()}
    assert isinstance(result.model.get_input_embeddings(), QuantizedEmbedding)


def test_saved_again_it_has_the_same_tensors_and_config(made: Made, tmp_path: Path) -> None:
    _, folder, tensors, quantization = made
    loaded(folder / "packed").save(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["quantization"] == quantization
    assert config["quantization_config"] == {**quantization, "quant_method": "mlx"}


def test_other_types_leave_scales_and_minima_exact(made: Made) -> None:
    layer = loaded(made[1] / "packed").model.get_input_embeddings()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    after = layer.double().half().state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
