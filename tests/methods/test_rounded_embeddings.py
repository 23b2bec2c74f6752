"""Token embeddings and output heads of absmax and zero-point in 8 and 4 bits: planned, stored once, read back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear, TiedHead
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.methods import affine
from tests.sample_models import plain_logits, random_model

pytestmark = pytest.mark.slow

TOKENS = torch.arange(2, 34).reshape(2, 16)
PACKED: dict[str, Any] = {"format": "compressed-tensors"}
CONFIGS = {
    "absmax": qt.AbsMax(embeddings=8),
    "absmax, full range": qt.AbsMax(bits=4, granularity="group", group_size=32, embeddings=4, full_range=True),
    "zero-point": qt.ZeroPoint(bits=4, granularity="channel", embeddings=8, **PACKED),
}


@pytest.fixture(
    scope="module",
    params=[
        ("llama_tied", "absmax"),
        ("llama_tied", "zero-point"),
        ("llama", "absmax, full range"),
        ("gemma3_text", "absmax"),
    ],
    ids=" ".join,
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    architecture, name = request.param
    folder = tmp_path_factory.mktemp("embeddings") / "out"
    qt.quantize(random_model(architecture), CONFIGS[name], device="cpu", output=folder)
    return architecture, name, folder


def loaded(folder: Path, dtype: str = "auto") -> qt.QuantizedModel:
    result = qt.load(folder, device="cpu", dtype=dtype)
    assert isinstance(result, qt.QuantizedModel)
    return result


def literal(weight: torch.Tensor, bits: int, *, full_range: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Textbook rounding of one group, in float64, and its step; its scale is the next bfloat16 from 0 outwards."""
    values = weight.double()
    largest = values[values.abs().argmax()].item()
    wanted = largest / -(2 ** (bits - 1)) if full_range else abs(largest) / (2 ** (bits - 1) - 1)
    scale = torch.tensor(wanted).to(torch.bfloat16)
    if abs(scale.item()) < abs(wanted):
        scale = (scale.view(torch.int16) + 1).view(torch.bfloat16)
    low = -(2 ** (bits - 1)) if full_range else 1 - 2 ** (bits - 1)
    codes = (values / scale.double()).round().clamp(low, 2 ** (bits - 1) - 1)
    return codes * scale.double(), scale.double().abs()


def test_rows_are_rounded_by_the_book(made: tuple[str, str, Path]) -> None:
    architecture, name, folder = made
    config = CONFIGS[name]
    weight = random_model(architecture).get_input_embeddings().weight
    embedding = loaded(folder).model.get_input_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    stored = embedding.dequantize().double()
    full_range = isinstance(config, qt.AbsMax) and config.full_range
    for token in (0, 3, 255):
        expected, step = literal(weight[token], config.embeddings or 0, full_range=full_range)
        # Weights halfway between two codes may go either way, as float32 has it.
        off = (stored[token] - expected).abs()
        assert (off < 1e-9).float().mean() > 0.95 and (off <= 1.001 * step).all()


def test_logits_are_those_of_the_codes(made: tuple[str, str, Path]) -> None:
    architecture, _, folder = made
    result = loaded(folder, "float32")
    dense = random_model(architecture).float()
    for name, module in result.model.named_modules():
        if isinstance(module, QuantizedLinear):
            dense.get_submodule(name).weight.data = module.dequantize()
    torch.testing.assert_close(plain_logits(result.model, TOKENS), plain_logits(dense, TOKENS), rtol=1e-4, atol=1e-5)


def test_every_byte_is_planned_and_tied_weights_are_one_tensor(made: tuple[str, str, Path]) -> None:
    architecture, name, folder = made
    result = loaded(folder)
    tied = architecture in ("llama_tied", "gemma3_text") and result.model.config.tie_word_embeddings
    plan = qt.plan(random_model(architecture), CONFIGS[name], device="cpu")
    memory = result.memory
    assert plan.footprint_after == memory.predicted_footprint_after == memory_footprint(result.model)
    tensors = load_file(folder / "model.safetensors")
    assert plan.disk_after == sum(tensor.nbytes for tensor in tensors.values())
    assert isinstance(result.model.get_output_embeddings(), TiedHead if tied else QuantizedLinear)
    assert ("lm_head.weight_packed" in tensors) is not tied
    assert not any(key.endswith(("embed_tokens.weight", "lm_head.weight")) for key in tensors)
    assert "not loaded by transformers" in str(plan) and "quantized embeddings" in str(plan)


def test_transformers_is_never_asked_to_expand_them(made: tuple[str, str, Path]) -> None:
    described = json.loads((made[2] / "config.json").read_text())["quantization_config"]
    assert "run_compressed" not in described  # it would compute something else without a word
    assert described["ignore"] == []
    last = described["config_groups"]["group_1"]
    assert last["targets"] == ["lm_head", "model.embed_tokens"] and last["weights"]["symmetric"]


def test_saved_again_and_read_again(made: tuple[str, str, Path], tmp_path: Path) -> None:
    _, name, folder = made
    result = loaded(folder)
    assert result.config == CONFIGS[name]
    result.save(tmp_path / "again")
    first, again = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again"))
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)


def test_a_file_that_holds_the_tied_weight_twice(tmp_path: Path) -> None:
    random_model("llama_tied").save_pretrained(tmp_path / "source")
    tensors = load_file(tmp_path / "source" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    result = qt.quantize(tmp_path / "source", CONFIGS["absmax"], device="cpu", output=tmp_path / "out")
    assert isinstance(result.model.get_output_embeddings(), TiedHead)
    assert not any(key.startswith("lm_head") for key in load_file(tmp_path / "out" / "model.safetensors"))


def test_large_vocabularies_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = random_model("llama")
    qt.quantize(model, CONFIGS["absmax"], device="cpu", output=tmp_path / "whole")
    monkeypatch.setattr(affine, "_AT_ONCE", 64 * 10)
    qt.quantize(model, CONFIGS["absmax"], device="cpu", output=tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "format": (qt.ZeroPoint, {"embeddings": 8}, "'native' holds no embeddings of 8 bits: give format='compressed-ten"),
    "width": (qt.AbsMax, {"embeddings": 5}, "embeddings must be 8 or 4, or left out, got 5$"),
    "target": (qt.AbsMax, {"embeddings": 8, "target_bits": 5.0}, "a target gives bits to layers in blocks alone"),
}


@pytest.mark.parametrize(("kind", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_work(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**options)


def test_a_model_that_the_format_does_not_hold_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"does not hold \S+ \(beside experts in one tensor.*: exclude it, or leave out format"
    ):
        qt.plan(random_model("mixtral"), replace(CONFIGS["absmax"], exclude=("lm_head", "experts.*")), device="cpu")


def test_a_head_that_is_not_excluded_is_planned_once() -> None:
    plan = qt.plan(random_model("llama"), qt.AbsMax(embeddings=8, exclude=()), device="cpu")
    assert sorted(layer.name for layer in plan.layers if layer.name == "lm_head") == ["lm_head"]
