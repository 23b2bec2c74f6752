"""A repair: an adapter of peft that takes away a part of what quantization lost, and figures that are the ruler's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import qtoolkit as qt
from qtoolkit.adapters.applied import multiplied_weight, with_adapter
from qtoolkit.errors import ConfigError, OutputExistsError, QToolkitError, UnsupportedModelError
from qtoolkit.jobs import repairing
from qtoolkit.records import Repair
from tests.adapters.conftest import MORE, OTHER_TEXT, SMALL, TEXT, quantized_folder, repaired
from tests.sample_models import few_tokens, random_model

__all__ = ["quantized_folder", "repaired"]
# Enough that some passages of a text have a hash.
LARGER = {**SMALL, "num_samples": 40, "num_tokens": 1024}
IDS = torch.arange(5, 69).reshape(2, 32)  # [samples, tokens]


def test_divergence_falls(repaired: Repair) -> None:
    assert 0.2 < repaired.regained < 1
    assert repaired.num_layers == 14 and repaired.rank == 16


def test_figures_are_those_of_the_ruler(repaired: Repair, quantized_folder: Path, tiny_llama: Path) -> None:
    q = qt.load(quantized_folder, device="cpu")
    options = {"text": OTHER_TEXT, "seq_len": 64, "num_tokens": 256, "device": "cpu", "speed": False}
    plain = qt.evaluate(q, base=tiny_llama, **options)
    assert plain.kl_divergence == pytest.approx(repaired.before.kl_divergence, rel=1e-6)
    tensors = load_file(Path(repaired.path) / "adapter_model.safetensors")
    with with_adapter(q.model, {key.removeprefix("base_model.model."): value for key, value in tensors.items()}):
        adapted = qt.evaluate(q, base=tiny_llama, **options)
    assert adapted.kl_divergence == pytest.approx(repaired.after.kl_divergence, rel=1e-6)
    assert adapted.perplexity == pytest.approx(repaired.after.perplexity, rel=1e-6)


def test_peft_computes_the_same(repaired: Repair, quantized_folder: Path) -> None:
    model = qt.load(quantized_folder, device="cpu").model
    tensors = load_file(Path(repaired.path) / "adapter_model.safetensors")
    with torch.no_grad():
        with with_adapter(model, {key.removeprefix("base_model.model."): one for key, one in tensors.items()}):
            expected = model(input_ids=IDS).logits.float()
        found = PeftModel.from_pretrained(model, repaired.path)(input_ids=IDS).logits.float()
    assert (found - expected).norm() < 1e-2 * expected.norm()


def test_the_folder_is_a_plain_adapter(repaired: Repair, quantized_folder: Path, tiny_llama: Path) -> None:
    folder = Path(repaired.path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "qtoolkit_adapter.json",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (16, 16, "LORA")
    assert config["base_model_name_or_path"] == quantized_folder.name
    # A program without our layers reads the same names: those of transformers' model.
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), folder)
    stored = load_file(folder / "adapter_model.safetensors")
    loaded = {key.replace(".default", ""): one for key, one in plain.state_dict().items() if "lora_" in key}
    assert set(stored) == set(loaded) and len(stored) == 28


def test_bits_are_counted(repaired: Repair) -> None:
    stored = load_file(Path(repaired.path) / "adapter_model.safetensors")
    weights = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # q and o, k and v, the three of the MLP
    assert repaired.adapter_bits == pytest.approx(16 * sum(one.numel() for one in stored.values()) / weights)
    assert repaired.adapter_bytes == (Path(repaired.path) / "adapter_model.safetensors").stat().st_size
    assert 4 < repaired.weight_bits < 6


def test_transposed_layers_and_a_second_time(smollm2: Path, tmp_path: Path) -> None:
    base = tmp_path / "gpt2"
    random_model("gpt2", vocab_size=few_tokens(smollm2, base)).save_pretrained(base)
    q = qt.quantize(base, qt.AbsMax(bits=4, granularity="group", group_size=32), device="cpu")
    for rank in (4, 8):
        result = qt.repair(q, base, tmp_path / "adapter", rank=rank, overwrite=True, **SMALL)
        assert result.num_layers == 8 and result.rank == rank
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 8
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    full = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        with with_adapter(full, {key.removeprefix("base_model.model."): one for key, one in tensors.items()}):
            expected = full(input_ids=IDS).logits.float()
        found = PeftModel.from_pretrained(full, tmp_path / "adapter")(input_ids=IDS).logits.float()
    assert (found - expected).norm() < 1e-2 * expected.norm()


def test_weights_of_layers_of_other_programs(tiny_llama: Path) -> None:
    import bitsandbytes as bnb

    layer = qt.quantize(tiny_llama, qt.NF4(), device="cpu").model.model.layers[0].mlp.down_proj
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    # On some processors bitsandbytes rounds scales to bfloat16 as it multiplies.
    assert (multiplied_weight(layer) - expected).norm() < 2**-8 * expected.norm()


REFUSED = {
    "a rank larger than a layer": (
        {"rank": 40},
        ConfigError,
        r"rank=40 is larger than .*k_proj \(32 x 64\): give at most 32",
    ),
    "no rank": ({"rank": 0}, ConfigError, "rank must be at least 1"),
    "text of the model": ({"text": TEXT}, ConfigError, "text that the model was calibrated on"),
    "text of the adapter": ({"text": MORE}, ConfigError, "text that the model was calibrated on"),
    "text of a model": ({"calibration": "self"}, ConfigError, "give another text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, quantized_folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        qt.repair(quantized_folder, tiny_llama, tmp_path / "adapter", **{**LARGER, **options})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_belong_together(
    quantized_folder: Path, tiny_llama: Path, smollm2: Path, tmp_path: Path
) -> None:
    other = tmp_path / "qwen2"
    random_model("qwen2", vocab_size=few_tokens(smollm2, other)).save_pretrained(other)
    wrong: list[tuple[Path, Path, type[QToolkitError], str]] = [
        (tiny_llama, tiny_llama, UnsupportedModelError, "is not quantized: there is nothing to repair"),
        (quantized_folder, quantized_folder, UnsupportedModelError, "quantized"),
        (quantized_folder, other, ConfigError, "is a LlamaForCausalLM.*give what it was made from as base"),
    ]
    for model, base, error, message in wrong:
        with pytest.raises(error, match=message):
            qt.repair(model, base, tmp_path / "adapter", rank=4, **SMALL)
    with pytest.raises(OutputExistsError, match="exists"):
        qt.repair(quantized_folder, tiny_llama, quantized_folder, rank=4, **SMALL)


def test_neither_model_nor_base_is_replaced(
    quantized_folder: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file for folder in (quantized_folder, tiny_llama) for file in folder.iterdir()}
    # Before anything is loaded.
    monkeypatch.delattr(repairing, "open_repaired")
    for output in (quantized_folder, quantized_folder / "inside", tiny_llama, tiny_llama / "inside"):
        with pytest.raises(OutputExistsError, match=r"which is never (written to|replaced): name another output"):
            qt.repair(quantized_folder, tiny_llama, output, rank=4, overwrite=True, **SMALL)
    assert files == {file for folder in (quantized_folder, tiny_llama) for file in folder.iterdir()}


def test_it_is_not_merged_into_the_base_which_has_lost_nothing(
    repaired: Repair, quantized_folder: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    # Also where its weights alone were copied into a folder of another name.
    copied = shutil.copytree(repaired.path, tmp_path / "copied")
    with pytest.raises(
        ConfigError, match=r"^adapter copied makes good what the codes of one quantized model have lost"
    ):
        qt.merge(quantized_folder, copied, output=tmp_path / "merged", base=tiny_llama, device="cpu")
    assert not (tmp_path / "merged").exists()
