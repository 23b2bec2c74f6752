"""Sources with one scale of FP8 a tensor, and those in MXFP4 and NVFP4, are loaded, planned and quantized from."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import qtoolkit as qt
from tests.coded_models import FLOAT4, FP8, WEIGHTS, Tensors, store_as_float4, write
from tests.sample_models import random_model

STATIC = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
GROUP = {"targets": ["Linear"], "weights": STATIC, "input_activations": STATIC, "output_activations": None}
# llm-compressor's preset FP8, and what vLLM's own quantizer wrote before it.
ONE_SCALE: dict[str, dict[str, Any]] = {
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": GROUP},
    },
    "fp8": {"quant_method": "fp8", "activation_scheme": "static", "modules_to_not_convert": ["lm_head"]},
}


def one_scale(folder: Path, config: dict[str, Any], *, dimensions: int) -> Tensors:
    """Save a model whose weights have one scale each, and their inputs too; the weights that these stand for."""
    random_model("llama").save_pretrained(folder)
    tensors, expected = load_file(folder / WEIGHTS), {}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].float().abs().max() / 448
        codes = (tensors[name].float() / scale).to(FP8)
        expected[name] = (codes.double() * scale.double()).to(torch.bfloat16)
        tensors |= {name: codes, f"{name}_scale": scale.reshape((1,) * dimensions)}
        tensors[f"{name.removesuffix('.weight')}.input_scale"] = torch.ones((1,) * dimensions)
    write(folder, tensors, config)
    return expected


def float4(layout: str, folder: Path) -> Tensors:
    return store_as_float4(random_model("llama"), folder, layout)


SOURCES: dict[str, tuple[str, Callable[[Path], Tensors]]] = {
    "FP8 of compressed-tensors": (
        "FP8",
        lambda folder: one_scale(folder, ONE_SCALE["compressed-tensors"], dimensions=1),
    ),
    "FP8 of vLLM": ("FP8", lambda folder: one_scale(folder, ONE_SCALE["fp8"], dimensions=0)),
    "MXFP4": ("MXFP4", lambda folder: float4("mxfp4-pack-quantized", folder)),
    "NVFP4": ("NVFP4", lambda folder: float4("nvfp4-pack-quantized", folder)),
}


@pytest.mark.parametrize(("kind", "make"), SOURCES.values(), ids=SOURCES)
def test_it_is_loaded_planned_and_quantized_from(kind: str, make: Callable[[Path], Tensors], tmp_path: Path) -> None:
    expected = make(tmp_path / "coded")
    model = qt.load(tmp_path / "coded", device="cpu")
    assert isinstance(model, PreTrainedModel)
    for name, weight in expected.items():
        assert torch.equal(model.get_parameter(name), weight), name
    model.save_pretrained(tmp_path / "expanded")
    plan, other = (qt.plan(tmp_path / name, "absmax", device="cpu") for name in ("coded", "expanded"))
    assert plan.source.stored_as == kind
    assert (plan.source.footprint, plan.footprint_after) == (other.source.footprint, other.footprint_after)
    assert plan.source.disk_size < other.source.disk_size
    for name in ("coded", "expanded"):
        qt.quantize(tmp_path / name, "absmax", device="cpu", output=tmp_path / f"{name}-absmax")
    ours, theirs = (load_file(tmp_path / f"{name}-absmax" / WEIGHTS) for name in ("coded", "expanded"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not installed"
)
@pytest.mark.parametrize("layout", FLOAT4)
def test_four_bits_are_what_transformers_expands_them_to(layout: str, tmp_path: Path) -> None:
    expected = float4(layout, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    # It expands them before it first computes.
    theirs(torch.ones(1, 1, dtype=torch.long))
    for name, weight in expected.items():
        layer = theirs.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.weight, weight), name
