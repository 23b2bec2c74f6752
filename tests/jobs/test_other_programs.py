"""Models that other programs stored, and that no format here reads: one line, before weights are asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import SourceError, UnsupportedModelError
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

Job = Callable[[Path], object]
JOBS: dict[str, Job] = {
    "load": lambda folder: qt.load(folder, device="cpu"),
    "evaluate": lambda folder: qt.evaluate(folder, device="cpu"),
    "compare": lambda folder: qt.compare(folder, [qt.NF4()], device="cpu"),
    "a candidate": lambda folder: qt.compare(folder.parent / "plain", [folder], device="cpu"),
    "plan": lambda folder: qt.plan(folder, qt.NF4(), device="cpu"),
    "quantize": lambda folder: qt.quantize(folder, qt.NF4(), device="cpu"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and its config alone in another, so that whoever reads weights says that they lack."""
    folder = tmp_path_factory.mktemp("models")
    random_model("llama").save_pretrained(folder / "plain")
    (folder / "stored").mkdir()
    return folder


def stored_as(models: Path, values: dict[str, Any]) -> Path:
    config = json.loads((models / "plain" / "config.json").read_text()) | {"quantization_config": values}
    (models / "stored" / "config.json").write_text(json.dumps(config))
    return models / "stored"


def refusal(job: Job, folder: Path) -> str:
    with pytest.raises(SourceError) as caught:
        job(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "full-precision model" in message
    return message


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_job_refuses_it_by_its_config_alone(job: Job, models: Path) -> None:
    refusal(job, stored_as(models, {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}}))


KINDS = {
    "hqq": "stored as HQQ, which is not read here: load it with transformers and the package hqq, or name the",
    "quanto": "Quanto",
    "aqlm": "AQLM",
    "torchao": "torchao",
    "eetq": "EETQ",
    "vptq": "VPTQ",
    "higgs": "HIGGS",
    "spqr": "SpQR",
    "bitnet": "BitNet",
    "modelopt": "NVIDIA's Model Optimizer",
    "nvfp4": "NVFP4",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "quark": "AMD Quark",
    "fp_quant": "FP-Quant",
    "HQQ": "stored as HQQ",
    "other\nwise": r"not known here \(quant_method 'other\\nwise'\): load it with the program that made it, or name",
}


@pytest.mark.parametrize(("method", "said"), KINDS.items(), ids=map(repr, KINDS))
def test_it_says_what_it_is_and_what_to_do(method: str, said: str, models: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        qt.load(stored_as(models, {"quant_method": method}), device="cpu")


@pytest.mark.parametrize("values", [{"quant_method": None}, {"quant_method": ["hqq"]}, {"nbits": 4}], ids=str)
def test_a_config_that_names_nothing(values: dict[str, Any], models: Path) -> None:
    assert "in a way that is not known here" in refusal(JOBS["load"], stored_as(models, values))


def packed(**changes: Any) -> dict[str, Any]:
    """What compressed-tensors writes, apart from these values of the config or of its one scheme."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
    scheme = {"targets": ["Linear"], "weights": weights}
    values = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": scheme}}
    for name, value in changes.items():
        place = weights if name in ("type", "num_bits", "actorder", "strategy") else scheme if "act" in name else values
        place[name] = value
    return values


READ_BY_A_FORMAT: dict[str, tuple[dict[str, Any], str]] = {
    "an NVFP4 layout": (packed(format="nvfp4-pack-quantized", type="float"), "format 'nvfp4-pack-quantized'"),
    "an MXFP4 layout": (packed(format="mxfp4-pack-quantized", type="float"), "format 'mxfp4-pack-quantized'"),
    "a sparse layout": (packed(format="marlin-24"), "format 'marlin-24'"),
    "sparse weights": (packed(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config"),
    "transforms": (packed(transform_config={"config_groups": {"u": {}}}), "transform_config"),
    "keys and values": (packed(kv_cache_scheme={"num_bits": 8, "type": "float"}), "kv_cache_scheme"),
    "3-bit AWQ": ({"quant_method": "awq", "bits": 3}, "AWQ is read with 4 bits, not 3"),
    "another AWQ": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "AWQ is read in version 'gemm', not 'gemv'"),
}


@pytest.mark.parametrize(("values", "said"), READ_BY_A_FORMAT.values(), ids=READ_BY_A_FORMAT)
def test_what_a_format_does_not_read_of_its_own(values: dict[str, Any], said: str, models: Path) -> None:
    assert said in refusal(JOBS["evaluate"], stored_as(models, values))
