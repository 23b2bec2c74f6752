"""What we save is read by plain transformers: bitsandbytes models without qtoolkit, ours once qtoolkit is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.methods import MethodConfig

TOKENS = torch.arange(2, 34).reshape(1, 32)
READ = """
import sys, torch, transformers
from safetensors.torch import save_file
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], device_map={"": "cpu"})
assert transformers.AutoTokenizer.from_pretrained(sys.argv[1])("a b").input_ids
with torch.no_grad():
    save_file({"logits": model(torch.arange(2, 34).reshape(1, 32)).logits}, sys.argv[2])
"""
BLOCKED = "import sys; sys.modules['qtoolkit'] = None\n"
IMPORTS = {
    "qtoolkit-first": "import qtoolkit\n",
    "transformers-first": "from transformers import AutoModelForCausalLM, PreTrainedModel\nimport qtoolkit\n",
}


@pytest.mark.parametrize("config", [qt.NF4(), qt.FP4(double_quant=False), qt.Int8()], ids=["nf4", "fp4", "int8"])
def test_bitsandbytes_models_need_no_qtoolkit(tiny_llama: Path, tmp_path: Path, config: MethodConfig) -> None:
    _assert_same_logits(BLOCKED + READ, tiny_llama, tmp_path, config)


@pytest.mark.parametrize("first", IMPORTS.values(), ids=IMPORTS)
def test_ours_are_read_once_qtoolkit_is_imported(tiny_llama: Path, tmp_path: Path, first: str) -> None:
    _assert_same_logits(first + READ, tiny_llama, tmp_path, qt.ZeroPoint(bits=4, granularity="group", group_size=32))


def _assert_same_logits(code: str, model: Path, folder: Path, config: MethodConfig) -> None:
    quantized = qt.quantize(model, config, device="cpu", output=folder / "quantized")
    subprocess.run([sys.executable, "-c", code, str(folder / "quantized"), str(folder / "logits")], check=True)
    with torch.no_grad():
        assert torch.equal(load_file(folder / "logits")["logits"], quantized.model(TOKENS).logits)


def test_any_bitsandbytes_checkpoint_is_read(tiny_llama: Path, tmp_path: Path) -> None:
    """One that transformers made and saved, with its own default of what is left out."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=settings, device_map={"": "cpu"})
    theirs.save_pretrained(tmp_path / "theirs")
    ours = qt.load(tmp_path / "theirs", device="cpu")
    assert isinstance(ours, qt.QuantizedModel)
    assert ours.config == qt.NF4(double_quant=False, compute_dtype="bfloat16")
    with torch.no_grad():
        assert torch.equal(ours.model(TOKENS).logits, theirs(TOKENS).logits)


def test_a_plain_model_is_loaded_plain(tiny_llama: Path) -> None:
    model = qt.load(tiny_llama, device="cpu", dtype="float32")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32


def test_a_damaged_checkpoint_of_ours_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    qt.quantize(tiny_llama, qt.AbsMax(), device="cpu", output=folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scale"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(qt.QToolkitError, match=r"up_proj\.scale"):
        qt.load(folder, device="cpu")
