"""A converted model has the same codes, scales and zero points, and says so to every reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.methods import as_call
from tests.formats.compressed_tensors import packed_files
from tests.formats.gptq import files
from tests.formats.mlx import affine_files
from tests.jobs.converted import weights_of
from tests.sample_models import plain_logits, random_model

pytestmark = pytest.mark.slow

TOKENS = torch.arange(2, 34).reshape(2, 16)
GPTQ = [
    files.Recipe(bits=3, sym=False),
    files.Recipe("llama_tied", group_size=-1),
    *(
        pytest.param(recipe, marks=pytest.mark.slow)
        for recipe in (
            *(files.Recipe(bits=bits) for bits in (2, 3, 4, 8)),
            *(files.Recipe(bits=bits, sym=False) for bits in (2, 4, 8)),
            files.Recipe("qwen2", group_size=64, sym=False),
            files.Recipe("mixtral", bits=3),
            files.Recipe(checkpoint_format="gptq_v2"),
        )
    ),
]
Shapes = dict[str, tuple[int, int]]


def shapes_of(dense: Path, packed: Path) -> Shapes:
    """(out, in) of the layers that the second folder holds quantized."""
    held = load_file(packed / "model.safetensors")
    return {
        name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for name, tensor in load_file(dense / "model.safetensors").items()
        if name.endswith(".weight") and (name not in held or held[name].dtype == torch.uint32)
    }


def same(one: Path, other: Path) -> None:
    """Both folders hold the same numbers, of the same types, and the same config."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


def logits(folder: Path) -> torch.Tensor:
    result = qt.load(folder, device="cpu", dtype="float32")
    assert isinstance(result, qt.QuantizedModel)
    return plain_logits(result.model, TOKENS)


@pytest.mark.parametrize("recipe", GPTQ, ids=str)
def test_there_and_back_gptq_is_the_same_bit_for_bit(recipe: files.Recipe, tmp_path: Path) -> None:
    files.write_checkpoint(recipe, tmp_path)
    source = tmp_path / "gptq"
    shapes = shapes_of(tmp_path / "dense", source)
    formats = ["compressed-tensors", *(["mlx"] if recipe.sym else [])]
    for name in formats:
        qt.convert(source, name, tmp_path / name)
        back = tmp_path / f"{name}-back"
        record = qt.convert(tmp_path / name, recipe.checkpoint_format, back)
        assert (record.source_format, record.format) == (name, recipe.checkpoint_format)
        if name == "mlx" and recipe.group_size == -1:
            continue
        same(source, back)
    weights = weights_of(source, shapes)
    for name in formats:
        for layer, weight in weights_of(tmp_path / name, shapes).items():
            assert np.array_equal(weight, weights[layer]), (name, layer)
    expected = plain_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32), TOKENS)
    for name in formats:
        torch.testing.assert_close(logits(tmp_path / name), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_groups_in_another_order_stay_with_gptq(architecture: str, tmp_path: Path) -> None:
    files.write_checkpoint(files.Recipe(architecture, desc_act=True), tmp_path)
    qt.convert(tmp_path / "gptq", "gptq_v2", tmp_path / "v2")
    qt.convert(tmp_path / "v2", "gptq", tmp_path / "back")
    same(tmp_path / "gptq", tmp_path / "back")
    torch.testing.assert_close(logits(tmp_path / "v2"), logits(tmp_path / "gptq"), rtol=0, atol=0)


def test_bits_of_single_layers_are_kept(tmp_path: Path) -> None:
    recipe = packed_files.Recipe(bits_of={"down_proj": 8, "0.self_attn.q_proj": 3})
    packed_files.write_checkpoint(recipe, tmp_path)
    source = tmp_path / "packed"
    shapes = shapes_of(tmp_path / "dense", source)
    weights = weights_of(source, shapes)
    for name in ("gptq", "mlx"):
        qt.convert(source, name, tmp_path / name)
        read = weights_of(tmp_path / name, shapes)
        assert all(np.array_equal(read[layer], weight) for layer, weight in weights.items())
        qt.convert(tmp_path / name, "compressed-tensors", tmp_path / f"{name}-back")
        same(source, tmp_path / f"{name}-back")
        loaded = qt.load(tmp_path / name, device="cpu")
        assert {layer.bits for layer in loaded.report.layers} == {3, 4, 8}


@pytest.mark.parametrize("architecture", ["llama", "llama_tied"])
def test_embeddings_are_kept(architecture: str, tmp_path: Path) -> None:
    affine_files.write_checkpoint(packed_files.Recipe(architecture, bits=4, bits_of={"embed_tokens": 8}), tmp_path)
    source = tmp_path / "packed"
    qt.convert(source, "compressed-tensors", tmp_path / "ct")
    qt.convert(tmp_path / "ct", "mlx", tmp_path / "back")
    same(source, tmp_path / "back")
    shapes = shapes_of(tmp_path / "dense", source)
    read, weights = (weights_of(folder, shapes) for folder in (tmp_path / "ct", source))
    assert all(np.array_equal(read[layer], weight) for layer, weight in weights.items())
    torch.testing.assert_close(logits(tmp_path / "ct"), logits(source), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        qt.AbsMax(format="native"),
        pytest.param(qt.ZeroPoint(granularity="channel"), marks=pytest.mark.slow),
        pytest.param(
            qt.AbsMax(bits=4, granularity="group", group_size=32, rules={"*.down_proj": {"bits": 8}}, format="native"),
            marks=pytest.mark.slow,
        ),
        qt.ZeroPoint(bits=4, granularity="group", group_size=32, exclude=()),
    ],
    ids=as_call,
)
def test_native_codes_go_there_and_back(config: Any, tmp_path: Path) -> None:
    random_model("llama").save_pretrained(tmp_path / "dense")
    native = tmp_path / "native"
    qt.quantize(tmp_path / "dense", config, output=native, device="cpu")
    qt.convert(native, "compressed-tensors", tmp_path / "ct")
    qt.convert(tmp_path / "ct", "native", tmp_path / "back")
    same(native, tmp_path / "back")
    assert (tmp_path / "back" / "config.json").read_bytes() == (native / "config.json").read_bytes()
    held = {name for name in load_file(native / "model.safetensors") if name.endswith(".scale")}
    dense = load_file(tmp_path / "dense" / "model.safetensors")
    shapes = {name.removesuffix(".scale"): tuple(dense[f"{name.removesuffix('.scale')}.weight"].shape) for name in held}
    read, weights = (weights_of(folder, shapes) for folder in (tmp_path / "ct", native))
    assert all(np.array_equal(read[layer], weight) for layer, weight in weights.items())


@pytest.mark.parametrize(("source", "target"), [("compressed-tensors", "mlx"), ("mlx", "compressed-tensors")])
def test_embeddings_that_alone_are_quantized_are_kept(source: str, target: str, tmp_path: Path) -> None:
    some = {"calibration": "self", "num_samples": 2, "seq_len": 32, "group_size": 32}
    config = qt.GPTQ(embeddings=8, format=source, exclude=("lm_head", "*_proj"), **some)
    qt.quantize(random_model("llama"), config, output=tmp_path / "made", device="cpu")
    qt.convert(tmp_path / "made", target, tmp_path / "converted")
    before, after = (qt.load(tmp_path / name, device="cpu").model.dequantize() for name in ("made", "converted"))
    expected = before.state_dict()
    assert after.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in after.state_dict().items())
