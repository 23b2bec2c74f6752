"""A folder around a `.gguf` file whose config lies, experts in one tensor, and what verify tells of llama.cpp."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import CheckpointError
from qtoolkit.optional import is_installed
from qtoolkit.publishing.artifact import open_artifact
from qtoolkit.publishing.behaviour import run_in_llama_cpp
from qtoolkit.publishing.process import NoAnswerError
from qtoolkit.publishing.program_checks import check_program
from qtoolkit.publishing.verifier import check_files
from qtoolkit.records import Probe
from tests.publishing.checks import checks_of
from tests.sample_models import few_tokens, random_model

FILE = "tiny-llama-Q8_0.gguf"


@pytest.fixture(scope="module")
def saved(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"), output=tmp_path_factory.mktemp("file") / "out").path
    assert path is not None
    return path


def edited(saved: Path, folder: Path, values: dict[str, Any], stored: dict[str, Any] | None = None) -> Path:
    """A copy of a folder with other values in its config; None takes an entry away."""
    shutil.copytree(saved, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | values
    described = config["quantization_config"] | (stored or {})
    config["quantization_config"] = {key: value for key, value in described.items() if value is not None}
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.once
@pytest.mark.parametrize("name", [None, f"../out/{FILE}", "config.json", 7, [FILE], f"./{FILE}"])
def test_a_config_that_names_no_file_beside_it(saved: Path, tmp_path: Path, name: object) -> None:
    folder = edited(saved, tmp_path / "copy", {}, {"file": name})
    with pytest.raises(CheckpointError, match=r"which is no \.gguf file beside it"):
        qt.load(folder)
    checks = {check.name: check for check in check_files(open_artifact(folder))}
    assert checks["model file"].passed is False


@pytest.mark.once
@pytest.mark.parametrize("quant_type", ["Q4_0", ["Q8_0"], None])
def test_a_config_with_another_type_than_the_file(saved: Path, tmp_path: Path, quant_type: object) -> None:
    folder = edited(saved, tmp_path / "copy", {}, {"quant_type": quant_type})
    with pytest.raises(CheckpointError, match="quant_type"):
        qt.load(folder)
    checks = {check.name: check for check in check_files(open_artifact(folder))}
    assert checks["quantization config"].passed is False
    assert "quant_type" in checks["quantization config"].value


@pytest.mark.once
def test_a_file_with_another_tokenizer_than_its_folder(saved: Path, tmp_path: Path) -> None:
    """llama.cpp reads the one in the file, and transformers the one beside it; what is given is told."""
    folder = edited(saved, tmp_path / "copy", {})
    key = b"tokenizer.ggml.eos_token_id" + struct.pack("<I", 4)
    content = (folder / FILE).read_bytes()
    assert content.count(key) == 1
    at = content.index(key) + len(key)
    (folder / FILE).write_bytes(content[:at] + bytes([content[at] + 1]) + content[at + 1 :])
    (check,) = (check for check in check_files(open_artifact(folder)) if check.name == "quantization config")
    assert (check.passed, check.value) == (False, f"{FILE} and the tokenizer beside it differ in {key[:-4].decode()}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<{number}>" for number in range(9999)])
    tokenizer.save_pretrained(folder)
    (check,) = (check for check in check_files(open_artifact(folder)) if check.name == "quantization config")
    assert check.value == f"{FILE} holds another tokenizer than that beside it, which no .gguf file holds"


@pytest.mark.once
def test_a_config_with_fewer_layers_than_the_file(saved: Path, tmp_path: Path) -> None:
    folder = edited(saved, tmp_path / "copy", {"num_hidden_layers": 1})
    with pytest.raises(CheckpointError, match=rf"num_hidden_layers 1, and {FILE} 2: get both again"):
        qt.load(folder)


@pytest.mark.parametrize("in_memory", [False, True], ids=["folder", "in_memory"])
def test_experts_are_planned_one_by_one(smollm2: Path, tmp_path: Path, in_memory: bool) -> None:
    """Also where the model holds those of a layer in one tensor; their shares are what the file takes without norms."""
    count = few_tokens(smollm2, tmp_path / "mixtral")
    random_model("mixtral", vocab_size=count).save_pretrained(tmp_path / "mixtral")
    source: Any = str(tmp_path / "mixtral")
    options: dict[str, Any] = {}
    if in_memory:
        options["tokenizer"] = AutoTokenizer.from_pretrained(source)
        source = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    config = qt.GGUF("Q8_0", exclude=("*.w1",))
    result = qt.quantize(source, config, output=tmp_path / "out", **options)
    report, receipt = result.report, result.receipt
    assert report.path is not None
    assert receipt is not None and receipt.probe is not None, report.notes
    tensors = gguf.GGUFReader(next(Path(report.path).glob("*.gguf"))).tensors
    types = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    assert types["blk.1.ffn_gate_exps.weight"] == "F16"
    assert types["blk.1.ffn_down_exps.weight"] == "Q8_0"
    planned = {layer.name: layer.disk_bytes for layer in (*report.layers, *report.skipped)}
    experts = {name: size for name, size in planned.items() if ".experts." in name}
    assert len(experts) == 2 * 4 * 3
    assert sum(experts.values()) == sum(int(tensor.n_bytes) for tensor in tensors if "_exps" in tensor.name)
    loaded = qt.load(tmp_path / "out", device="cpu").report
    assert {layer.name: layer.disk_bytes for layer in loaded.layers if ".experts." in layer.name} == experts


def test_the_options_of_generating_are_those_of_the_base(tiny_llama: Path, tmp_path: Path) -> None:
    """Without them, transformers would make some of the config, which knows one end of a turn where chats have two."""
    base = shutil.copytree(tiny_llama, tmp_path / "tiny")
    (base / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [2, 0]}')
    qt.quantize(str(base), qt.GGUF("Q8_0"), output=tmp_path / "out")
    checks = checks_of(tmp_path / "out", base=base)
    assert checks["generation config"].passed, str(checks["generation config"])
    assert checks["logits"].passed and checks["perplexity"].passed, str(checks["logits"])


def answering(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda _: {"model_error": "", "base": None} | values


@pytest.mark.once
def test_verify_tells_whether_llama_cpp_ran_the_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = open_artifact(saved)
    assert artifact.receipt is not None
    artifact = replace(artifact, receipt=replace(artifact.receipt, probe=None))
    if not is_installed("llama_cpp"):
        (check,) = check_program(artifact, answering())
        assert str(check.passed) == "None"
        assert (check.name, check.value) == ("runs in llama.cpp", "not tried")
        assert check.note == "llama-cpp-python is not installed here"
    monkeypatch.setattr("qtoolkit.publishing.program_checks.is_installed", lambda _: True)
    (check,) = check_program(artifact, answering(loss=2.0))
    assert (check.passed, check.value) == (True, "perplexity 7.3891")
    probe = Probe(token_ids=(1, 2), loss=2.1, top_ids=(), top_logits=(), std=(), device="cpu")
    assert artifact.receipt is not None
    measured = replace(artifact, receipt=replace(artifact.receipt, probe=probe))
    for loss, passed in ((2.0, True), (2.4, False)):
        (check,) = check_program(measured, answering(loss=loss))
        assert check.passed is passed, str(check)
    (check,) = check_program(artifact, answering(loss=None, model_error="SourceError: llama.cpp cannot read it"))
    assert check.passed is False
    assert "cannot read" in check.value

    def crash(request: dict[str, Any]) -> dict[str, Any]:
        assert request["llama_cpp"] == FILE
        raise NoAnswerError("the process ended with -11")

    (check,) = check_program(artifact, crash)
    assert check.passed is False
    assert check.value == "the process ended with -11"


@pytest.mark.once
def test_without_llama_cpp_the_process_says_so(saved: Path) -> None:
    if is_installed("llama_cpp"):
        pytest.skip("llama-cpp-python is installed")
    assert "needs the package llama_cpp" in run_in_llama_cpp(saved / FILE, [1, 2])["model_error"]
