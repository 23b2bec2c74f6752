"""QA-LoRA on a layer of codes: one number for each output and group, by peft's own config and its formula."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

import qtoolkit as qt
from qtoolkit.adapters.adapter_reading import read_adapter
from qtoolkit.errors import UnsupportedModelError

GROUP = 16


def grouped(**options: object) -> LoraConfig:
    return (
        LoraConfig(
            r=4, lora_alpha=6, task_type="CAUSAL_LM", use_qalora=True, qalora_group_size=GROUP, init_lora_weights=False
        )
        if not options
        else LoraConfig(r=4, task_type="CAUSAL_LM", use_qalora=True, **options)
    )


def test_a_layer_adds_its_formula_and_the_saved_adapter_is_read_as_it(quantized_folder: Path, tmp_path: Path) -> None:
    model = get_peft_model(qt.load(quantized_folder, device="cpu").model, grouped())
    model.save_pretrained(tmp_path / "adapter")
    name = "model.layers.1.self_attn.v_proj"
    layer = model.base_model.model.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape == (4, 64 // GROUP)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    # [tokens, in] -> [tokens, groups, group_size]; peft multiplies the means by the number of groups.
    pooled = x.view(3, -1, GROUP).mean(-1) * (64 // GROUP)
    with torch.no_grad():
        added = layer(x) - layer.base_layer(x)
        assert torch.allclose(added, 6 / 4 * pooled @ a.T @ b.T, atol=1e-6)
    change = read_adapter(tmp_path / "adapter").changes[name]
    assert change.group_size == GROUP and change.shape == (32, 64)
    assert torch.allclose(x @ change.product().T, added, atol=1e-6)
    columns = change.product().view(32, -1, GROUP)
    assert torch.equal(columns, columns[..., :1].expand_as(columns))
    loaded = PeftModel.from_pretrained(qt.load(quantized_folder, device="cpu").model, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(loaded.base_model.model.get_submodule(name)(x), layer(x), atol=1e-6)


def test_groups_that_do_not_divide_and_two_variants(quantized_folder: Path) -> None:
    for options, message in (
        ({"qalora_group_size": 48}, "qalora_group_size=48 does not divide the 64 inputs"),
        ({"qalora_group_size": 16, "use_dora": True}, "use_qalora=True and another variant"),
    ):
        with pytest.raises(UnsupportedModelError, match=message) as caught:
            get_peft_model(qt.load(quantized_folder, device="cpu").model, grouped(**options))
        assert "\n" not in str(caught.value)


def test_all_linear_finds_layers_of_codes(quantized_folder: Path) -> None:
    model = get_peft_model(
        qt.load(quantized_folder, device="cpu").model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    )
    # Two blocks of seven linear layers, without the output head.
    assert len(model.targeted_module_names) == 14
    assert not any("lm_head" in name for name in model.targeted_module_names)
    model.add_adapter("other", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert len(model.peft_config["other"].target_modules) == 14
