"""A verification tells which programs load a folder, by its config and tensors, and fails for one that does not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.contract_check import check_readers, stored_by, stored_in
from qtoolkit.publishing.readers import needs_qtoolkit
from qtoolkit.readers import readers_of, reading_of
from qtoolkit.readers.matrices import matrices_of
from qtoolkit.records import Check


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the GPTQ result."""
    return Path(shutil.copytree(made["gptq"], tmp_path / "copy"))


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**config.get("quantization_config", {}), **changes}
    (folder / "config.json").write_text(json.dumps(config))


def check(folder: Path, for_: str | None = None) -> Check:
    return check_readers(open_artifact(folder), for_)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loads"), [("gptq", True), ("nf4", False)])
def test_a_verification_for_a_program(made: dict[str, Path], run_here: list[str], name: str, loads: bool) -> None:
    checks = qt.verify(made[name], for_="vllm").checks
    (made_for,) = (one for one in checks if one.name == "a program loads it")
    assert made_for.passed == loads
    assert made_for.value == f"{'loads' if loads else 'does not load'} in vLLM 0.33.0"


def test_without_a_program_it_lists_them(made: dict[str, Path]) -> None:
    assert check(made["gptq"]).value.startswith("should load in transformers, vLLM, gptqmodel, auto-gptq")
    # Nothing was run: it is no pass.
    assert check(made["gptq"]).rows()[0].value == "expected" and check(made["gptq"]).passed
    assert check(made["gptq"], "vllm").rows()[0].value == "passed"
    assert check(made["nf4"]).value.startswith("should load in transformers, SGLang, peft, qtoolkit; not in vLLM")


def test_a_receipt_and_its_folder_say_the_same(made: dict[str, Path]) -> None:
    for name, folder in made.items():
        artifact = open_artifact(folder)
        stored = stored_in(artifact)
        assert artifact.receipt is not None and stored is not None
        by_receipt = readers_of(stored_by(artifact.receipt))
        # A receipt does not say of what sizes the layers are.
        assert readers_of(replace(stored, matrices=())) == by_receipt, name
        assert needs_qtoolkit(artifact.receipt, stored) != reading_of("transformers", by_receipt).loads


@pytest.mark.parametrize("name", ["gptq", "gptq_v2"])
def test_matrices_are_those_of_the_model_before(made: dict[str, Path], base: Path, name: str) -> None:
    weights = [tensors for file in base.glob("*.safetensors") for tensors in load_file(file).items()]
    shapes = {
        key.removesuffix(".weight"): tuple(weight.shape) for key, weight in weights if key.endswith("_proj.weight")
    }
    stored = stored_in(open_artifact(made[name]))
    assert stored is not None and stored.matrices == matrices_of(shapes) != ()


def test_awq_has_a_layout_of_its_own(copy: Path) -> None:
    change(copy, quant_method="awq", version="gemm", checkpoint_format=None, format=None)
    stored = stored_in(open_artifact(copy))
    assert stored is not None and stored.layout == "gemm"
    assert reading_of("qtoolkit", readers_of(stored)).loads


def test_dynamic_that_servers_read_otherwise_is_found(copy: Path) -> None:
    """Layers in 8 bits by their own names: vLLM looks for qkv_proj, and takes 4."""
    file = copy / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if name.endswith(("q_proj.qweight", "k_proj.qweight", "v_proj.qweight"))]:
        tensors[name] = tensors[name].repeat(2, 1)
    save_file(tensors, file, {"format": "pt"})
    change(copy, dynamic={r"+:^.*\.[qkv]_proj$": {"bits": 8}})
    assert "dynamic names layers" in check(copy, "vllm").note
    change(copy, dynamic={r"+:^.*\.([qkv]|qkv)_proj$": {"bits": 8}})
    assert check(copy, "vllm").passed is True
    assert check(copy, "auto-gptq").passed is False


@pytest.mark.parametrize(
    ("changes", "reader", "loads"),
    [
        ({"desc_act": True}, "vllm", False),
        ({"sym": False}, "sglang", False),
        ({"group_size": 256}, "vllm", False),
        ({"quant_method": "awq"}, "vllm", True),
        ({"quant_method": "awq", "bits": 3}, "vllm", True),
        ({"quant_method": "fp8"}, "llama.cpp", False),
    ],
)
def test_a_config_that_somebody_wrote(copy: Path, changes: dict[str, Any], reader: str, loads: bool) -> None:
    change(copy, **changes)
    assert check(copy, reader).passed == (loads and changes.get("bits") != 3)


@pytest.mark.parametrize("changes", [{"dynamic": {"+:.*": []}}, {"dynamic": 5}, {"bits": "4"}, {"sym": "false"}])
def test_of_values_that_none_can_have_nothing_is_claimed(copy: Path, changes: dict[str, Any]) -> None:
    change(copy, **changes)
    assert check(copy).passed is None
    assert check(copy, "vllm").passed is False
    assert check(copy, "vllm").note == "the quantization_config cannot be read"


@pytest.mark.parametrize("changes", [{"bnb_4bit_compute_dtype": "nonsense"}, {"load_in_4bit": "x"}])
def test_lies_about_bitsandbytes_are_a_line(made: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(made["nf4"], tmp_path / "copy"))
    change(folder, **changes)
    assert check(folder).passed is None
    with pytest.raises(qt.QToolkitError, match="none of bitsandbytes"):
        qt.load(folder, device="cpu")


def test_a_format_that_the_contract_does_not_know(copy: Path) -> None:
    change(copy, quant_method="toy")
    assert check(copy).passed is None
    with pytest.raises(qt.QToolkitError, match="not known: leave for_ out"):
        check(copy, "vllm")


def test_a_model_in_full_precision(base: Path) -> None:
    assert check(base, "vllm").passed is True
