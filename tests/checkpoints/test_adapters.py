"""An adapter belongs to a model's weights: it is refused by name, and never left out of the copy."""

import json
import shutil
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

import qtoolkit as qt
from qtoolkit.errors import UnsupportedModelError
from tests.fake_hub.server import Hub
from tests.sample_models import random_model

WAY = "merge_and_unload"


def add_adapter(folder: Path, base: object = "org/base", **values: object) -> None:
    """What `PeftModel.save_pretrained` of peft 0.21 writes of a LoRA of rank 2 on one layer."""
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    config = described | {"base_model_name_or_path": base} | values
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    matrices = {name.format("A"): torch.ones(2, 64), name.format("B"): torch.ones(64, 2)}
    save_file(matrices, folder / "adapter_model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "model"
    random_model("llama").save_pretrained(folder)
    return folder


def refusal(verb: Any, *arguments: object, **options: object) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        verb(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert WAY in message
    return message


@pytest.mark.parametrize("weights", ["model.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("verb", [qt.plan, qt.quantize, qt.load], ids=["plan", "quantize", "load"])
def test_beside_weights_it_is_refused(saved: Path, tmp_path: Path, verb: Any, weights: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "tuned")
    (folder / "model.safetensors").rename(folder / weights)
    add_adapter(folder)
    options = {} if verb is qt.load else {"device": "cpu"}
    message = refusal(verb, folder, *(["absmax"] if options else []), **options)
    assert f"{folder} holds an adapter of type 'LORA' for 'org/base'" in message
    assert "if that was done here, remove adapter_config.json" in message


def test_alone_it_is_told_from_a_model_without_a_config(tmp_path: Path) -> None:
    add_adapter(tmp_path)
    message = refusal(qt.plan, tmp_path, "nf4")
    assert f"{tmp_path} holds an adapter of type 'LORA' for 'org/base'" in message
    assert "remove" not in message


@pytest.mark.parametrize("base", [None, 3, "", ["a"]], ids=repr)
def test_a_base_that_it_does_not_name_is_not_made_up(tmp_path: Path, base: object) -> None:
    add_adapter(tmp_path, base)
    assert "for a base that it does not name" in refusal(qt.plan, tmp_path, "nf4")


def test_what_it_says_of_itself_stays_in_one_short_line(tmp_path: Path) -> None:
    add_adapter(tmp_path, "a\nb" * 10_000, peft_type="x\n" * 10_000)
    assert len(refusal(qt.plan, tmp_path, "nf4")) < 3 * len(str(tmp_path)) + 500
    (tmp_path / "adapter_config.json").write_text("{")
    assert "holds an adapter for a base that it does not name" in refusal(qt.plan, tmp_path, "nf4")


@pytest.mark.parametrize("verb", [qt.plan, qt.quantize], ids=["plan", "quantize"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside weights"])
def test_on_the_hub_it_is_refused_before_a_weight_is_downloaded(
    hub: Hub, saved: Path, tmp_path: Path, verb: Any, alone: bool
) -> None:
    if not alone:
        shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    add_adapter(tmp_path)
    hub.add("org/tuned", {file.name: file.read_bytes() for file in tmp_path.iterdir()})
    message = refusal(verb, "org/tuned", "absmax")
    assert "org/tuned holds an adapter of type 'LORA' for 'org/base'" in message
    assert not [name for name in hub.downloads() if name.endswith(".safetensors")]


class Type(StrEnum):
    LORA = "LORA"


CONFIG = SimpleNamespace(peft_type=Type.LORA, base_model_name_or_path="org/base")


def test_several_in_folders_of_their_own_are_told_from_a_model_without_a_config(tmp_path: Path) -> None:
    """As `PeftModel.save_pretrained` writes them where there is none named "default"."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        add_adapter(tmp_path / name)
    message = refusal(qt.plan, tmp_path, "nf4")
    assert "has no config.json, and adapters in 'first, second': merge each" in message
    assert f"PeftModel.from_pretrained(base, {str(tmp_path / 'first')!r})" in message


def test_one_below_a_whole_model_is_left_out_with_a_note(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "checkpoint-5").mkdir()
    add_adapter(folder / "checkpoint-5")
    notes = qt.quantize(folder, "absmax", device="cpu").report.notes
    assert "left out, since transformers does not apply it: the adapter in the folder 'checkpoint-5'" in notes


def test_one_of_several_beside_an_adapter_is_refused_with_it(tmp_path: Path) -> None:
    add_adapter(tmp_path)
    (tmp_path / "second").mkdir()
    add_adapter(tmp_path / "second")
    assert f"{tmp_path} holds an adapter of type 'LORA' for 'org/base'" in refusal(qt.plan, tmp_path, "nf4")


def test_it_is_to_be_merged_into_full_precision(tmp_path: Path) -> None:
    """Its base may be quantized, as QLoRA trains them: merged into codes, the result is quantized already."""
    add_adapter(tmp_path, "org/base-bnb-4bit")
    assert "merge it into its base in full precision" in refusal(qt.plan, tmp_path, "nf4")


def test_of_a_quantized_base_in_memory_the_full_precision_is_asked_for() -> None:
    model: Any = random_model("llama")
    model.peft_config = {"default": CONFIG}
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    message = refusal(qt.plan, model, "nf4")
    assert "its base is quantized, give what PeftModel.from_pretrained(base in full precision, adapter)" in message


class PeftModel(nn.Module):
    """As peft's own, which is no PreTrainedModel, as far as one looks at it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.base_model, self.peft_config, self.config = model, {"default": CONFIG}, model.config

    def merge_and_unload(self) -> nn.Module:
        return self.base_model


def test_a_peft_model_is_told_from_another_module() -> None:
    message = refusal(qt.plan, PeftModel(random_model("llama")), "nf4")
    assert message.startswith("this PeftModel holds an adapter of type 'LORA' for 'org/base'")
    assert message.endswith("give what its merge_and_unload() returns")


def test_a_model_that_transformers_gave_an_adapter_is_refused() -> None:
    model: Any = random_model("llama")
    # As `load_adapter` leaves it.
    model.peft_config = {"default": CONFIG}
    message = refusal(qt.plan, model, "nf4")
    assert message.startswith("this LlamaForCausalLM holds an adapter of type 'LORA' for 'org/base'")


class PromptTuned(nn.Module):
    """As a PeftModel whose adapter is no change of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.peft_config = {"default": SimpleNamespace(peft_type="PROMPT_TUNING", base_model_name_or_path="org/base")}


def test_what_cannot_be_merged_is_told_as_that() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'PROMPT_TUNING' for 'org/base'.*none that can be merged"):
        qt.plan(PromptTuned(), "nf4")


def test_a_merged_model_is_planned() -> None:
    # merge_and_unload takes the configs away.
    assert qt.plan(random_model("llama"), "absmax", device="cpu").layers


def test_qt_verify_names_it(saved: Path, tmp_path: Path) -> None:
    from qtoolkit.publishing.artifact import open_artifact
    from qtoolkit.publishing.file_checks import check_config

    folder = shutil.copytree(saved, tmp_path / "tuned")
    assert check_config(open_artifact(folder)).passed
    add_adapter(folder)
    check = check_config(open_artifact(folder))
    assert check.passed is False and "'org/base'" in check.value


def test_find_models_does_not_list_the_bare_base(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "tuned")
    add_adapter(folder)
    assert any(
        "holds an adapter of type 'LORA' for 'org/base'" in note
        for note in qt.find_models(str(folder), hub=False).notes
    )
