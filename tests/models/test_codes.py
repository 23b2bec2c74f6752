"""Codes of a quantized model that lost its config are named for what they are, and never loaded as weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.file_checks import check_quantization
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"
LAYER = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{LAYER}.weight"
FP8 = torch.float8_e4m3fn
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes") / "model"
    random_model("llama").save_pretrained(folder)
    return folder


def change(folder: Path, how: Change) -> None:
    tensors = load_file(folder / WEIGHTS)
    how(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def forget_quantization(folder: Path, left: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = left
    (folder / "config.json").write_text(json.dumps(values))


def as_codes(dtype: torch.dtype, **beside: torch.Tensor) -> Change:
    """The weight in another type, and tensors beside it."""

    def how(tensors: dict[str, torch.Tensor]) -> None:
        tensors[WEIGHT] = (tensors[WEIGHT].float() * 100).to(dtype)
        tensors.update({f"{LAYER}.{name}": value for name, value in beside.items()})

    return how


def instead(**given: torch.Tensor) -> Change:
    """Tensors in the place of the weight."""

    def how(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[WEIGHT]
        tensors.update({f"{LAYER}.{name}": value for name, value in given.items()})

    return how


INT32, SCALE = torch.zeros(8, 64, dtype=torch.int32), torch.ones(64, 1)
# As the libraries write them -> how the message names them.
FORMATS: dict[str, tuple[Change, str]] = {
    "bitsandbytes int8": (as_codes(torch.int8, SCB=torch.ones(64)), "SCB belongs to bitsandbytes' LLM.int8"),
    "bitsandbytes nf4": (
        as_codes(torch.uint8, **{"weight.quant_state.bitsandbytes__nf4": torch.zeros(90, dtype=torch.uint8)}),
        "bitsandbytes__nf4 belongs to bitsandbytes' NF4",
    ),
    "GPTQ": (instead(qweight=INT32, qzeros=INT32, scales=SCALE), "qweight belongs to GPTQ, AWQ or FP-Quant"),
    "FP8 in blocks": (as_codes(FP8, weight_scale_inv=SCALE), "weight_scale_inv belongs to FP8"),
    "FP8 with a scale": (as_codes(FP8, weight_scale=SCALE), "weight_scale belongs to FP8"),
    "FP8 without a scale": (as_codes(FP8), "q_proj.weight is float8_e4m3fn, without its scale"),
    "FP8 of the other kind": (as_codes(torch.float8_e5m2), "q_proj.weight is float8_e5m2, without its scale"),
    "int8 without a scale": (as_codes(torch.int8), "q_proj.weight is int8, without its scale"),
    "compressed-tensors": (instead(weight_packed=INT32, weight_scale=SCALE), "weight_packed belongs to compressed"),
    "MLX": (as_codes(torch.int32, scales=SCALE, biases=SCALE), "q_proj.weight is int32, as in MLX"),
    "HQQ": (instead(W_q=INT32.byte()), "W_q belongs to HQQ or SINQ"),
    "EETQ": (as_codes(torch.int8, weight_scales=torch.ones(64)), "weight_scales belongs to EETQ"),
    "BitNet": (as_codes(torch.uint8, weight_scale=SCALE[:1]), "int8 of compressed-tensors, or BitNet"),
    "NVFP4": (
        as_codes(torch.uint8, weight_scale=SCALE, weight_scale_2=SCALE[:1]),
        "weight_scale_2 belongs to ModelOpt",
    ),
    "bitsandbytes without its state": (
        as_codes(torch.uint8, **{"weight.absmax": SCALE}),
        "absmax belongs to bitsandby",
    ),
    "HIGGS": (as_codes(torch.int16, scales=SCALE, tables=SCALE), "q_proj.weight is int16, as in HIGGS"),
    "torchao": (instead(_weight_qdata=INT32.char(), _weight_scale=SCALE), "_weight_qdata belongs to torchao"),
    "quanto": (instead(**{"weight._data": INT32.char(), "weight._scale": SCALE}), "_data belongs to quanto"),
    "quanto in 4 bits": (
        instead(**{"weight._data._data": INT32.byte(), "weight._scale": SCALE, "weight._shift": SCALE}),
        "_data._data belongs to quanto",
    ),
    "AQLM": (instead(codes=INT32.short(), codebooks=SCALE, scales=SCALE), "codes belongs to AQLM"),
    "VPTQ": (
        instead(indices=INT32, **{"centroids.weight": SCALE, "weight_scale": SCALE, "weight_bias": SCALE}),
        "indices belongs to VPTQ",
    ),
    "SpQR": (
        instead(dense_weights=INT32.long(), row_offsets=INT32, col_vals=INT32, in_perm=INT32.short()),
        "dense_weights belongs to SpQR",
    ),
    "QuIP#": (instead(Qidxs=INT32.long(), SU=SCALE, SV=SCALE, codebook_id=INT32), "Qidxs belongs to QuIP#"),
    "QTIP": (instead(trellis=INT32.short(), SU=SCALE, SV=SCALE, tlut=SCALE), "trellis belongs to QTIP"),
    "EXL3": (instead(trellis=INT32.short(), suh=SCALE, svh=SCALE), "trellis belongs to EXL3"),
    "EXL2": (
        instead(q_weight=INT32, q_invperm=INT32, q_scale=INT32, q_scale_max=SCALE, q_groups=INT32.short()),
        "q_weight belongs to EXL2",
    ),
    "MLC": (instead(q_weight=INT32, q_scale=SCALE), "q_weight belongs to MLC"),
    "Marlin": (instead(B=INT32, s=SCALE), "B belongs to Marlin"),
    "Metal": (as_codes(torch.int32, scales=SCALE, qbiases=SCALE), "q_proj.weight is int32, as in MLX"),
    "int64": (as_codes(torch.int64), "q_proj.weight is int64, without its scale"),
    "bool": (as_codes(torch.bool), "q_proj.weight is bool, without its scale"),
}


@pytest.mark.parametrize("how", [lambda folder: qt.plan(folder, "absmax", device="cpu"), qt.load], ids=["plan", "load"])
@pytest.mark.parametrize(("codes", "named"), FORMATS.values(), ids=FORMATS)
def test_codes_are_refused_by_name(saved: Path, tmp_path: Path, codes: Change, named: str, how: Any) -> None:
    folder = shutil.copytree(saved, tmp_path / "codes")
    change(folder, codes)
    with pytest.raises(UnsupportedModelError, match=named) as caught:
        how(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "its config has no quantization_config: restore that config.json, or name the full-precision" in message


@pytest.mark.parametrize(("codes", "named"), FORMATS.values(), ids=FORMATS)
def test_qt_verify_names_them(saved: Path, tmp_path: Path, codes: Change, named: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "codes")
    assert check_quantization(open_artifact(folder)).passed is None
    change(folder, codes)
    check = check_quantization(open_artifact(folder))
    assert check.passed is False and named in check.value


@pytest.mark.parametrize("left", [None, {}], ids=["none", "empty"])
@pytest.mark.parametrize("method", ["int8", "nf4", "zero_point"])
def test_our_own_results_without_their_config_are_not_quantized_again(
    saved: Path, tmp_path: Path, method: str, left: object
) -> None:
    qt.quantize(saved, method, device="cpu", output=tmp_path / "out")
    forget_quantization(tmp_path / "out", left)
    with pytest.raises(UnsupportedModelError, match="holds codes, not weights"):
        qt.quantize(tmp_path / "out", "absmax", device="cpu")


def test_experts_that_transformers_merges_are_seen(tmp_path: Path) -> None:
    random_model("mixtral").save_pretrained(tmp_path)

    def how(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if ".experts." in name)
        tensors[name] = tensors[name].to(FP8)

    change(tmp_path, how)
    with pytest.raises(UnsupportedModelError, match=r"experts.* is float8_e4m3fn, without its scale"):
        qt.plan(tmp_path, "absmax", device="cpu")


def test_integers_that_are_no_weights_are_welcome(tmp_path: Path) -> None:
    """Old checkpoints hold masks and positions, which transformers leaves out."""
    random_model("gpt2").save_pretrained(tmp_path)

    def how(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        tensors["position_ids"] = torch.arange(8)

    change(tmp_path, how)
    assert qt.plan(tmp_path, "absmax", device="cpu").layers


def test_a_model_in_memory_that_holds_codes_is_refused() -> None:
    model: Any = random_model("llama")
    layer = model.get_submodule(LAYER)
    layer.weight = torch.nn.Parameter(layer.weight.to(FP8), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"is float8_e4m3fn, without .*: give the full-precision model"):
        qt.plan(model, "absmax", device="cpu")


class Packed(torch.Tensor):
    """As torchao's tensors, which say that they are floats and hold codes."""


def test_tensors_of_another_class_are_refused() -> None:
    model: Any = random_model("llama")
    layer = model.get_submodule(LAYER)
    layer.weight = torch.nn.Parameter(layer.weight.detach().as_subclass(Packed), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match="holds Packeds, not plain tensors"):
        qt.plan(model, "absmax", device="cpu")


def test_codes_of_a_format_that_nobody_knows_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "codes")
    change(folder, instead(q=INT32))
    with pytest.raises(UnsupportedModelError, match=r"q_proj\.q is no float, and stands where a weight is missing"):
        qt.plan(folder, "absmax", device="cpu")


@pytest.mark.parametrize("name", ["weight_scale", "scales", "B", "s", "codebooks", "tables", "trellis"])
def test_floats_of_such_a_name_are_no_codes(saved: Path, tmp_path: Path, name: str) -> None:
    """A factor beside a weight, and positions elsewhere, say nothing of codes."""
    folder = shutil.copytree(saved, tmp_path / "factors")

    def how(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.{name}"] = SCALE.clone()
        tensors["position_ids"] = torch.arange(8)

    change(folder, how)
    assert check_quantization(open_artifact(folder)).passed is None
    assert qt.plan(folder, "absmax", device="cpu").layers
