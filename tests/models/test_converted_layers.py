"""Layers whose weight files hold in other parts are left where their codes would be lost, with the reason."""

import torch

import qtoolkit as qt
from qtoolkit.models.renaming import converted_layers
from scripts.small_models import small_model


def test_layers_that_files_hold_in_parts_or_with_others_are_found() -> None:
    merged = converted_layers(small_model("minimax_m3_vl", dtype=torch.bfloat16).to("meta"))
    assert {name.rpartition("layers.")[2] for name in merged} == {
        f"{index}.mlp.shared_experts.gate_up_proj" for index in range(2)
    }
    assert all(merged.values())
    split = converted_layers(small_model("hrm_text", dtype=torch.bfloat16).to("meta"))
    parts = {".".join(name.split(".")[-2:]) for name, is_merged in split.items() if not is_merged}
    assert parts == {"mlp.gate_proj", "mlp.up_proj"} | {f"self_attn.{one}_proj" for one in ("gate", "q", "k", "v")}
    assert converted_layers(small_model("mixtral", dtype=torch.bfloat16).to("meta")) == {}


def test_bitsandbytes_alone_leaves_what_transformers_splits() -> None:
    model = small_model("hrm_text", dtype=torch.bfloat16)
    left = {layer.name for layer in qt.plan(model, "nf4", device="cpu").skipped if "files keep it" in layer.skipped}
    assert left == set(converted_layers(model))
    assert left <= {layer.name for layer in qt.plan(model, "absmax", device="cpu").layers}
