"""A quantized model trains adapters like any model of transformers, and its adapters are those of anybody."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import qtoolkit as qt
from qtoolkit.adapters.lora_layers import QuantizedLoraLinear

IDS = torch.arange(5, 69).reshape(2, 32)  # [samples, tokens]
CONFIGS: dict[str, Any] = {
    "absmax": lambda: qt.AbsMax(bits=4, granularity="group", group_size=32),
    "zero_point": lambda: qt.ZeroPoint(bits=8),
    "fp8": qt.FP8,
    "w8a8": qt.W8A8,
    "nf4": qt.NF4,
}


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})


def losses(model: PeftModel, steps: int = 6) -> list[float]:
    """The loss before each step of Adam."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    adam = torch.optim.Adam(trained, lr=5e-2)
    found = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        adam.step()
        adam.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_every_result_trains(name: str, tiny_llama: Path) -> None:
    model = get_peft_model(qt.quantize(tiny_llama, CONFIGS[name](), device="cpu").model, lora())
    first, *_, last = losses(model)
    assert last < first - 0.1


def test_a_loaded_model_trains_with_checkpointing_and_dropout(quantized_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(quantized_folder)
    model = prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing
    assert model.hf_quantizer.is_trainable
    model = get_peft_model(model.train(), lora(lora_dropout=0.1))
    first, *_, last = losses(model)
    assert last < first - 0.1


def test_checkpointing_changes_no_gradient(quantized_folder: Path) -> None:
    def gradients(*, checkpointing: bool) -> list[torch.Tensor]:
        model = qt.load(quantized_folder, device="cpu").model
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        adapted = get_peft_model(model.train(), lora(init_lora_weights=False))
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        return [one.grad for one in adapted.parameters() if one.grad is not None]

    with_it, without = gradients(checkpointing=True), gradients(checkpointing=False)
    assert len(with_it) == len(without) == 8
    assert all(torch.equal(one, other) for one, other in zip(with_it, without, strict=True))


def test_an_old_torchao_is_not_asked_for(quantized_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> bool:
        raise ImportError("Found an incompatible version of torchao. Found version 0.10.0")

    # Colab has one that peft refuses as soon as it looks at a plain layer.
    monkeypatch.setattr("peft.tuners.lora.torchao.is_torchao_available", refuse)
    model = qt.load(quantized_folder, device="cpu").model
    assert isinstance(get_peft_model(model, lora()), PeftModel)


def test_several_adapters(quantized_folder: Path) -> None:
    base = qt.load(quantized_folder, device="cpu").model
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
    model = get_peft_model(base, lora(init_lora_weights=False))
    model.add_adapter("other", lora(r=2, init_lora_weights=False))
    outputs = {}
    with torch.no_grad():
        for name in ("default", "other"):
            model.set_adapter(name)
            outputs[name] = model(input_ids=IDS).logits
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, plain)
    assert not torch.equal(outputs["default"], outputs["other"])
    assert isinstance(model.unload(), PreTrainedModel)
    assert not any(isinstance(module, QuantizedLoraLinear) for module in base.modules())


def test_an_adapter_is_one_of_the_base_for_everybody(quantized_folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    model = get_peft_model(qt.load(quantized_folder, device="cpu").model, lora())
    losses(model)
    model.save_pretrained(tmp_path / "adapter")
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == tiny_llama.name
    assert str(quantized_folder.parent) not in (tmp_path / "adapter" / "README.md").read_text()
    # On the full model, of which no layer is ours.
    full = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "adapter")
    assert not any("qtoolkit" in type(module).__module__ for module in full.modules())
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    loaded = {key.replace(".default", ""): value for key, value in full.state_dict().items() if "lora_" in key}
    assert set(stored) == set(loaded) and len(stored) == 8
    assert all(torch.equal(stored[key], loaded[key].float()) for key in stored)


def test_a_base_in_a_folder_with_the_name_of_a_tag(
    quantized_folder: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lora").symlink_to(quantized_folder)
    monkeypatch.chdir(tmp_path)
    model = get_peft_model(qt.load("lora", device="cpu").model, lora())
    assert model.peft_config["default"].base_model_name_or_path == "lora"
    model.save_pretrained("adapter")
    head = Path("adapter", "README.md").read_text().split("---")[1]
    for line in (f"base_model: {tiny_llama.name}", f"- base_model:adapter:{tiny_llama.name}", "- lora"):
        assert f"{line}\n" in head
