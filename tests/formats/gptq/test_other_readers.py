"""What we save is read by plain transformers: bitsandbytes models without qtoolkit, ours once qtoolkit is imported."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import qtoolkit as qt
from qtoolkit.methods import MethodConfig
from tests.formats.gptq.files import Recipe, write_checkpoint
from tests.sample_models import plain_logits

TOKENS = torch.arange(2, 34).reshape(1, 32)
READ = """
import sys, torch, transformers
from safetensors.torch import save_file
for folder in sys.argv[1:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"})
    assert transformers.AutoTokenizer.from_pretrained(folder)("a b").input_ids
    with torch.no_grad():
        save_file({"logits": model(torch.arange(2, 34).reshape(1, 32)).logits}, folder + "/logits")
"""
READ_GPTQ = """
model = transformers.AutoModelForCausalLM.from_pretrained({folder!r})
assert type(model.model.layers[0].mlp.up_proj).__name__ == "QuantizedLinear"
"""
BLOCKED = "import sys; sys.modules['qtoolkit'] = None\n"
IMPORTS = {
    "qtoolkit-first": "import qtoolkit\n",
    "transformers-first": "from transformers import AutoModelForCausalLM, PreTrainedModel\nimport qtoolkit\n",
}


def test_bitsandbytes_models_need_no_qtoolkit(tiny_llama: Path, tmp_path: Path) -> None:
    configs = qt.NF4(), qt.FP4(double_quant=False), qt.Int8()
    for result, logits in _read_elsewhere(BLOCKED + READ, tiny_llama, tmp_path, *configs):
        assert torch.equal(logits, plain_logits(result.model, TOKENS)), result.name


@pytest.mark.parametrize("first", IMPORTS.values(), ids=IMPORTS)
@pytest.mark.slow
def test_ours_and_gptq_are_read_once_qtoolkit_is_imported(tiny_llama: Path, tmp_path: Path, first: str) -> None:
    config = qt.ZeroPoint(bits=4, granularity="group", group_size=32)
    write_checkpoint(Recipe(), tmp_path / "others")
    code = first + READ + READ_GPTQ.format(folder=str(tmp_path / "others" / "gptq"))
    ((result, logits),) = _read_elsewhere(code, tiny_llama, tmp_path, config)
    with torch.no_grad():
        assert torch.equal(logits, result.model(TOKENS).logits)


def _read_elsewhere(
    code: str, model: Path, folder: Path, *configs: MethodConfig
) -> Iterator[tuple[qt.QuantizedModel, torch.Tensor]]:
    """Each result in memory, and the logits of what another process, in which `code` runs, reads of it."""
    folders = [folder / config.method for config in configs]
    results = [
        qt.quantize(model, config, device="cpu", output=output) for config, output in zip(configs, folders, strict=True)
    ]
    subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True)
    for output, result in zip(folders, results, strict=True):
        yield result, load_file(output / "logits")["logits"]


def test_any_bitsandbytes_checkpoint_is_read(tiny_llama: Path, tmp_path: Path) -> None:
    """One that transformers made and saved, with its own default of what is left out."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(tiny_llama, quantization_config=settings, device_map={"": "cpu"})
    theirs.save_pretrained(tmp_path / "theirs")
    ours = qt.load(tmp_path / "theirs", device="cpu")
    assert isinstance(ours, qt.QuantizedModel)
    assert ours.config == qt.NF4(double_quant=False, compute_dtype="bfloat16")
    assert torch.equal(plain_logits(ours.model, TOKENS), plain_logits(theirs, TOKENS))


def test_a_plain_model_is_loaded_plain(tiny_llama: Path) -> None:
    model = qt.load(tiny_llama, device="cpu", dtype="float32")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32


def test_a_damaged_checkpoint_of_ours_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    qt.quantize(tiny_llama, qt.AbsMax(format="native"), device="cpu", output=folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scale"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(qt.QToolkitError, match=r"up_proj\.scale"):
        qt.load(folder, device="cpu")
