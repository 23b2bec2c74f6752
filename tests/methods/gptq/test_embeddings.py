"""Token embeddings and output heads in 8 bits: planned, stored once, computed as their codes say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear, TiedHead
from qtoolkit.measure.footprint import memory_footprint
from tests.methods.gptq.jobs import gptq
from tests.sample_models import plain_logits, random_model

pytestmark = pytest.mark.slow

TOKENS = torch.arange(2, 34).reshape(2, 16)
ARCHITECTURES = ("llama_tied", "llama", "gemma3_text")


def config_of(**changes: Any) -> qt.GPTQ:
    written = {"calibration": "self", "num_samples": 4, "seq_len": 16, "refine": 0}
    return gptq(**{"format": "compressed-tensors", "embeddings": 8, **written} | changes)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("embeddings") / request.param
    qt.quantize(random_model(request.param), config_of(), device="cpu", output=folder)
    return request.param, folder


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def test_logits_are_those_of_the_codes(made: tuple[str, Path]) -> None:
    architecture, folder = made
    result = loaded(folder, "float32")
    dense = random_model(architecture).float()
    for name, module in result.model.named_modules():
        if isinstance(module, QuantizedLinear):
            dense.get_submodule(name).weight.data = module.dequantize()
    torch.testing.assert_close(plain_logits(result.model, TOKENS), plain_logits(dense, TOKENS), rtol=1e-4, atol=1e-5)


def test_codes_are_as_near_as_8_bits_come(made: tuple[str, Path]) -> None:
    architecture, folder = made
    weight = random_model(architecture).get_input_embeddings().weight.float()
    embedding = loaded(folder).model.get_input_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    error = (embedding.dequantize() - weight).unflatten(1, (-1, 64)).abs().amax(2)
    # Half a step of a range that both signs may use; scales of 8 significant bits.
    assert (error <= weight.unflatten(1, (-1, 64)).abs().amax(2) / 127).all()


def test_every_byte_is_planned(made: tuple[str, Path]) -> None:
    architecture, folder = made
    result, tied = loaded(folder), architecture == "llama_tied"
    plan = qt.plan(random_model(architecture), config_of(), device="cpu")
    memory = result.memory
    assert plan.footprint_after == memory.predicted_footprint_after == memory_footprint(result.model)
    tensors = load_file(folder / "model.safetensors")
    assert plan.disk_after == sum(tensor.nbytes for tensor in tensors.values())
    head = result.model.get_output_embeddings()
    assert isinstance(head, TiedHead if tied else QuantizedLinear)
    assert ("lm_head.weight_packed" in tensors) is not tied
    assert not any(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in tensors)
    eights = {layer.name for layer in plan.layers if layer.bits == 8}
    assert eights == {"model.embed_tokens", *([] if tied else ["lm_head"])}


def test_saved_again_and_read_again(made: tuple[str, Path], tmp_path: Path) -> None:
    result = loaded(made[1])
    assert result.config.embeddings == 8  # type: ignore[attr-defined]
    result.save(tmp_path / "again")
    first, again = (load_file(folder / "model.safetensors") for folder in (made[1], tmp_path / "again"))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    written = result.model.generate(TOKENS[:1], max_new_tokens=3, do_sample=False)
    assert torch.equal(
        written, loaded(tmp_path / "again").model.generate(TOKENS[:1], max_new_tokens=3, do_sample=False)
    )


def test_the_config_names_them(made: tuple[str, Path]) -> None:
    described = json.loads((made[1] / "config.json").read_text())["quantization_config"]
    assert described["ignore"] == []
    assert described["config_groups"]["group_1"]["targets"] == ["lm_head", "model.embed_tokens"]


def test_a_config_that_does_not_name_them_is_refused(made: tuple[str, Path], tmp_path: Path) -> None:
    values = json.loads((made[1] / "config.json").read_text())
    values["quantization_config"]["config_groups"]["group_1"]["targets"] = ["lm_head"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(made[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="embed_tokens is quantized, and the config says that it is not"):
        loaded(tmp_path)


@pytest.mark.parametrize(("architecture", "exclude"), [("llama_tied", ("*.layers.*",)), ("gpt2", ("lm_head",))])
def test_they_may_be_all_that_is_quantized(architecture: str, exclude: tuple[str, ...], tmp_path: Path) -> None:
    config = config_of(exclude=exclude, token_weights=True)
    result = qt.quantize(random_model(architecture), config, device="cpu", output=tmp_path / "out")
    heads = {name for name in ("lm_head",) if architecture == "gpt2"}
    assert {layer.name.rpartition(".")[2] for layer in result.report.layers} - heads <= {"embed_tokens", "wte"}
    dense, packed = random_model(architecture).float(), loaded(tmp_path / "out", "float32").model
    assert isinstance(packed.get_input_embeddings(), QuantizedEmbedding)
    for name, module in packed.named_modules():
        if isinstance(module, QuantizedLinear):
            dense.get_submodule(name).weight.data = module.dequantize()
    torch.testing.assert_close(plain_logits(packed, TOKENS), plain_logits(dense, TOKENS), rtol=1e-4, atol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "format": (
        {"format": "gptq"},
        "'gptq' holds no embeddings of 8 bits: give format='compressed-tensors' or format='mlx', or",
    ),
    "width": ({"embeddings": 5}, "holds no embeddings of 5 bits"),
    "target": ({"target_bits": 4.5}, "a target gives bits to layers in blocks alone"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_work(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(**changes)


def test_plans_tell_what_becomes_of_embeddings() -> None:
    model = random_model("llama")
    kept = qt.plan(model, config_of(format="gptq", embeddings=None), device="cpu")
    assert "embeddings stay as they are" in str(kept)
    assert "not loaded by transformers" in str(qt.plan(model, config_of(), device="cpu"))
