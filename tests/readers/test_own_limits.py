"""What the contract says of qtoolkit itself is what `qt.load` takes and refuses, by a config alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, UnsupportedModelError
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import stored_in
from qtoolkit.readers import readers_of, reading_of

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
AUTO_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True, "data_type": "int"}
INTEGERS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
TOKENS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
FLOAT4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}


def scheme(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


CONFIGS: dict[str, tuple[dict[str, Any], bool]] = {
    "gptq": (GPTQ, True),
    "gptq 3 bits": (GPTQ | {"bits": 3}, True),
    "gptq 5 bits": (GPTQ | {"bits": 5}, False),
    "gptq groups of 16": (GPTQ | {"group_size": 16}, False),
    "gptq marlin": (GPTQ | {"checkpoint_format": "marlin"}, False),
    "awq": (AWQ, True),
    "awq gemv": (AWQ | {"version": "gemv"}, False),
    "awq 3 bits": (AWQ | {"bits": 3}, False),
    "awq groups of 16": (AWQ | {"group_size": 16}, False),
    "auto-round": (AUTO_ROUND, True),
    "auto-round awq": (AUTO_ROUND | {"packing_format": "auto_round:auto_awq"}, True),
    "auto-round v2": (AUTO_ROUND | {"packing_format": "auto_round"}, True),
    "auto-round other": (AUTO_ROUND | {"packing_format": "auto_round:llm_compressor"}, False),
    "auto-round 5 bits": (AUTO_ROUND | {"bits": 5}, False),
    "packed": (scheme("pack-quantized", INTEGERS), True),
    "packed 6 bits": (scheme("pack-quantized", INTEGERS | {"num_bits": 6}), True),
    "packed 7 bits": (scheme("pack-quantized", INTEGERS | {"num_bits": 7}), False),
    "packed groups of 16": (scheme("pack-quantized", INTEGERS | {"group_size": 16}), False),
    "marlin 24": (scheme("marlin-24", INTEGERS), False),
    "float8": (scheme("float-quantized", FLOAT8, TOKENS), True),
    "nvfp4": (scheme("nvfp4-pack-quantized", FLOAT4, FLOAT4 | {"dynamic": "local"}), True),
    "nvfp4 of weights": (scheme("nvfp4-pack-quantized", FLOAT4), True),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, True),
    "mxfp4": ({"quant_method": "mxfp4"}, True),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, False),
    "modelopt_fp4": ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4"}, False),
}


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "folder"))


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_said_is_what_is_done(name: str, folder: Path) -> None:
    values, loads = CONFIGS[name]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": values}))
    stored = stored_in(open_artifact(folder))
    assert stored is not None
    assert reading_of("qtoolkit", readers_of(stored)).loads is loads
    # Its weights are in full precision, which is refused after the config is.
    with pytest.raises(CheckpointError if loads else UnsupportedModelError):
        qt.load(folder, device="cpu")


def test_an_algorithm_of_the_model_optimizer_is_told_apart(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for algorithm, loads in (("NVFP4", True), ("W4A8_AWQ", False)):
        values = {"quant_method": "modelopt", "quant_algo": algorithm}
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": values}))
        stored = stored_in(open_artifact(folder))
        assert stored is not None and stored.layout == algorithm
        assert {one.reader: one.loads for one in readers_of(stored) if one.reader in ("vllm", "sglang")} == {
            "vllm": loads,
            "sglang": loads,
        }
