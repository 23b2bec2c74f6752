"""A model is quantized into a `.gguf` file: what was planned is written, and other readers find the same numbers."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.checkpoints.folder import read_weights
from qtoolkit.errors import CheckpointError, ConfigError, UnsupportedModelError
from qtoolkit.formats.gguf.mixes import MIXES
from qtoolkit.records import ProgressEvent
from tests.sample_models import dequantized, random_model

FILE = "tiny-llama-Q8_0.gguf"


@pytest.fixture(scope="module")
def result(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> qt.QuantizedModel:
    return qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"), output=tmp_path_factory.mktemp("file") / "out")


def test_the_choices_are_the_mixes() -> None:
    (choices,) = (field.metadata["choices"] for field in fields(qt.GGUF) if field.name == "quant_type")
    assert {*choices} == {*MIXES}


def test_the_file_is_as_large_as_planned(result: qt.QuantizedModel, tiny_llama: Path) -> None:
    """To the byte: by a plan that reads no weight, and by the tensors that the `gguf` package finds."""
    assert result.path is not None
    file = result.path / FILE
    plan = qt.plan(str(tiny_llama), qt.GGUF("Q8_0"))
    assert plan.disk_after == result.memory.predicted_disk_after == file.stat().st_size
    tensors = gguf.GGUFReader(file).tensors
    assert plan.footprint_after == result.memory.footprint_after == sum(int(tensor.n_bytes) for tensor in tensors)


def test_each_weight_is_within_half_a_step(result: qt.QuantizedModel, tiny_llama: Path) -> None:
    """Q8_0 has 127 steps up to the largest weight of 32; compared in the rows that llama.cpp does not reorder."""
    assert result.path is not None
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(result.path / FILE).tensors}
    source = read_weights(tiny_llama)
    for kind, module in (("attn_v", "self_attn.v_proj"), ("ffn_down", "mlp.down_proj")):
        stored = tensors[f"blk.1.{kind}.weight"]
        weight = source[f"model.layers.1.{module}.weight"][...].double().numpy()
        found = gguf.dequantize(stored.data, stored.tensor_type).astype(np.float64)
        blocks = np.abs(weight).reshape(len(weight), -1, 32)
        step = np.repeat(blocks.max(2) / 127, 32, axis=1)
        assert (np.abs(found - weight) <= 0.501 * step + 1e-3 * np.abs(weight)).all()


def test_transformers_and_qtoolkit_load_the_same_weights(result: qt.QuantizedModel) -> None:
    assert result.path is not None
    loaded = qt.load(result.path)
    theirs = AutoModelForCausalLM.from_pretrained(
        result.path, gguf_file=FILE, dtype=torch.bfloat16, **dequantized()
    ).state_dict()
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, theirs[name]), name
    assert torch.equal(result.model.state_dict()["lm_head.weight"], theirs["lm_head.weight"])


def test_the_receipt_has_the_logits_of_the_file(result: qt.QuantizedModel) -> None:
    """As transformers computes them with the file's weights; those of the base differ by more."""
    assert result.path is not None and result.receipt is not None and result.receipt.probe is not None
    probe = result.receipt.probe
    model = AutoModelForCausalLM.from_pretrained(result.path, gguf_file=FILE, dtype=torch.float32, **dequantized())
    tokens = torch.tensor([probe.token_ids])  # [1, tokens]
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[0]  # [tokens, vocabulary]
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:]).item()
    assert probe.loss == pytest.approx(loss, abs=0.01)
    for row, ids, stored, std in zip(logits[-2:], probe.top_ids, probe.top_logits, probe.std, strict=True):
        assert (row[list(ids)] - torch.tensor(stored)).abs().max() < 0.05 * std
        assert row.std().item() == pytest.approx(std, rel=0.02)


def test_a_loaded_folder_tells_what_it_was_made_of(result: qt.QuantizedModel) -> None:
    assert result.path is not None
    loaded = qt.load(result.path)
    assert loaded.config == qt.GGUF("Q8_0")
    assert loaded.receipt is not None
    assert result.receipt is not None
    assert loaded.receipt.files == result.receipt.files
    assert {*loaded.receipt.dtypes} == {"Q8_0", "F32"}


def test_saving_copies_the_file(result: qt.QuantizedModel, tmp_path: Path) -> None:
    assert result.path is not None
    before = {file.name: file.read_bytes() for file in result.path.iterdir()}
    copied = qt.load(result.path)
    copied.save(tmp_path / "copy")
    assert {file.name: file.read_bytes() for file in (tmp_path / "copy").iterdir()} == before


def test_excluded_modules_stay_in_16_bits(tiny_llama: Path, tmp_path: Path) -> None:
    report = qt.quantize(str(tiny_llama), qt.GGUF("Q8_0", exclude=("v_proj",)), output=tmp_path / "out").report
    tensors = gguf.GGUFReader(tmp_path / "out" / FILE).tensors
    types = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    assert types["blk.0.attn_v.weight"] == "F16"
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert {layer.skipped for layer in report.skipped if layer.name.endswith("v_proj")} == {"excluded by name"}


def test_rows_that_no_block_divides_are_told(tiny_llama: Path) -> None:
    """The rows of 64 fit no super-block of 256."""
    notes = qt.plan(str(tiny_llama), qt.GGUF("Q4_K_M")).notes
    assert any("rows that are no multiple of 256, such as 64: they become" in note for note in notes), notes


def test_a_name_that_llama_cpp_would_refuse_is_told(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "Phi-3-tiny"))
    qt.quantize(str(folder), qt.GGUF("Q8_0"), output=tmp_path / "out", device="cpu")
    assert gguf.GGUFReader(tmp_path / "out" / "Phi-3-tiny-Q8_0.gguf").fields["general.name"].contents() == "Phi 3-tiny"
    notes = qt.plan(str(folder), qt.GGUF("Q8_0")).notes
    assert any("the model is called 'Phi 3-tiny' in the file: llama.cpp refuses 'Phi-3-tiny'" in note for note in notes)


def test_tokens_that_llama_cpp_finds_otherwise_are_told(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "tiny"))
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"][0]["single_word"] = True
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    notes = qt.plan(str(folder), qt.GGUF("Q8_0")).notes
    assert any("llama.cpp finds within words, too, the tokens '<|endoftext|>'" in note for note in notes), notes


def test_a_file_needs_a_folder(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="GGUF writes a file for other programs: give output="):
        qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"))


def test_a_weight_that_is_no_number_ends_the_job(tiny_llama: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_llama.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    name = "model.layers.1.mlp.up_proj.weight"
    file = read_weights(broken)[name].file
    tensors = load_file(file)
    tensors[name][3, 5] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj.*holds NaN or infinity"):
        qt.quantize(str(broken), qt.GGUF("Q8_0"), output=tmp_path / "out")
    assert not [file for file in tmp_path.iterdir() if file.name != "broken"]


@pytest.mark.parametrize(("kind", "value"), [("F16", 3e5), ("Q4_1", 1e5), ("Q8_0", 1e30), ("Q6_K", 1e30)])
def test_a_weight_beyond_float16_ends_the_job(kind: str, value: float, tiny_llama: Path, tmp_path: Path) -> None:
    """The file would hold infinity."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(value)
    model.save_pretrained(tmp_path / "large")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "large")
    with pytest.raises(
        UnsupportedModelError, match=r"weights in blk\.1\.ffn_down\.weight that .* take quant_type='BF16'"
    ):
        qt.quantize(str(tmp_path / "large"), qt.GGUF(kind), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stopped_job_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    events = iter(range(5))

    def stop(event: ProgressEvent) -> None:
        if event.phase == "quantize" and next(events, None) is None:
            raise qt.JobCancelled

    with pytest.raises(qt.JobCancelled):
        qt.quantize(str(tiny_llama), qt.GGUF("Q8_0"), output=tmp_path / "out", on_progress=stop)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_folder_is_opened_with_its_own_config(tmp_path: Path) -> None:
    """Of a mixture of experts, whose widths transformers does not find in the header."""
    model = random_model("qwen3_moe", norm_topk_prob=True)
    qt.quantize(model, qt.GGUF("F16"), output=tmp_path / "out", device="cpu")
    loaded = qt.load(tmp_path / "out", device="cpu").model.state_dict()
    assert loaded.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.allclose(loaded[name].float(), weight.float(), atol=1e-3), name
