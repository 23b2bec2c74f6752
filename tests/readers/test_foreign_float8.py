"""Folders in float8 of other programs, and W4A8, are checked by the contract: their sizes, blocks and layers left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import check_readers, stored_in
from qtoolkit.readers import readers_of, reading_of

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
CONFIG |= {"num_attention_heads": 4, "num_key_value_heads": 2}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
ONE = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}


def compressed(layout: str, weights: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


def folder(path: Path, values: dict[str, Any], heads: int = 128, left: str = "") -> Path:
    """A block with keys and values of this size, in float8 but for the layer that is left."""
    sizes = {"q_proj": 256, "k_proj": heads, "v_proj": heads}
    weights = {f"model.layers.0.self_attn.{name}.weight": torch.zeros(rows, 256) for name, rows in sizes.items()}
    stored = {
        name: weight.to(torch.bfloat16 if left and left in name else torch.float8_e4m3fn)
        for name, weight in weights.items()
    }
    path.mkdir(exist_ok=True)
    save_file(stored, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": values}))
    return path


@pytest.mark.parametrize(
    ("values", "heads", "left", "loads"),
    [
        pytest.param(BLOCKS, 128, "", True, id="whole blocks"),
        pytest.param(BLOCKS, 64, "", False, id="a block across two layers"),
        pytest.param(BLOCKS, 128, "k_proj", False, id="a layer left of those that are joined"),
        pytest.param(FBGEMM, 64, "", True, id="fbgemm"),
        pytest.param(FBGEMM, 64, "v_proj", False, id="fbgemm, a layer left"),
        pytest.param(compressed("float-quantized", ONE, ONE), 64, "", True, id="one scale"),
        pytest.param(compressed("naive-quantized", ONE, ONE), 64, "q_proj", False, id="naive, a layer left"),
    ],
)
def test_vllm_loads_it_or_not(tmp_path: Path, values: dict[str, Any], heads: int, left: str, loads: bool) -> None:
    check = check_readers(open_artifact(folder(tmp_path, values, heads, left)), "vllm")
    assert check.passed is loads, check


@pytest.mark.parametrize("kind", ["float", "int"])
def test_codes_of_four_bits_beside_inputs_of_eight_are_not_float8(tmp_path: Path, kind: str) -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
    inputs = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}
    stored = stored_in(open_artifact(folder(tmp_path, compressed("pack-quantized", weights, inputs))))
    assert stored is not None
    readings = readers_of(stored)
    assert {name: reading_of(name, readings).loads for name in ("vllm", "sglang", "transformers", "qtoolkit")} == {
        "vllm": True,
        "sglang": False,
        "transformers": False,
        "qtoolkit": False,
    }


@pytest.mark.parametrize("value", [[], ["x"], {"a": 1}, None, -1, 2**40, "four"], ids=repr)
@pytest.mark.parametrize("key", ["bits", "group_size", "sym", "desc_act", "weight_block_size"])
def test_values_that_lie_are_described_without_an_error(tmp_path: Path, key: str, value: object) -> None:
    """Of a format that is not read here."""
    for kind in ("tensor", "fp8", "modelopt"):
        check_readers(open_artifact(folder(tmp_path, {"quant_method": kind, key: value}, left="proj")), None)


@pytest.mark.parametrize(
    ("values", "architecture", "loads"),
    [
        pytest.param(BLOCKS, "LlamaForCausalLM", False, id="float8 of Llama"),
        pytest.param(BLOCKS, "DeepseekV3ForCausalLM", True, id="float8 of DeepSeek"),
        pytest.param({"quant_method": "mxfp4"}, "LlamaForCausalLM", False, id="MXFP4 of Llama"),
        pytest.param({"quant_method": "mxfp4"}, "GptOssForCausalLM", True, id="MXFP4 of gpt-oss"),
    ],
)
def test_mlx_lm_finds_the_scales_of_some_classes_alone(
    tmp_path: Path, values: dict[str, Any], architecture: str, loads: bool
) -> None:
    """As `make interop` shows of Llama: "Received 14 parameters not in model: ...weight_scale_inv"."""
    made = folder(tmp_path, values)
    config = json.loads((made / "config.json").read_text()) | {"architectures": [architecture]}
    (made / "config.json").write_text(json.dumps(config))
    check = check_readers(open_artifact(made), "mlx-lm")
    assert check.passed is loads, check
    assert loads or architecture in check.note
