"""Keys of transformers 4 are made from those of transformers 5, and change nothing of what transformers 5 reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qtoolkit.checkpoints.config_ages import disagreements, missing_keys, same_scaling, with_both_ages

LINEAR = {"rope_type": "linear", "factor": 4.0}
# What a config of transformers 4.57 says of each, by its own class, and what has to stand in ours.
OLD: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", {"rope_theta": 5e5}, {"rope_scaling": None}),
    "scaled": ("qwen2", {"rope_theta": 1e6, "rope_scaling": LINEAR}, {}),
    "two thetas": (
        "gemma3_text",
        {
            "rope_theta": 2e6,
            "rope_local_base_freq": 2e4,
            "rope_scaling": LINEAR,
            "layer_types": ["sliding_attention"] * 2,
        },
        {},
    ),
    "one theta for all layers": ("olmo3", {"rope_theta": 5e5}, {"rope_local_base_freq": "absent"}),
    "other names": ("gpt_neox", {"rotary_emb_base": 20000, "rotary_pct": 0.5}, {}),
    "a share of each head": ("stablelm", {"rope_theta": 5e5, "partial_rotary_factor": 0.5}, {}),
    "a rope of its own": ("gemma4_text", {}, {"rope_theta": "absent", "rope_scaling": "absent"}),
    "no older form": ("mimo_v2_flash", {}, {"rope_theta": "absent", "rope_scaling": "absent"}),
    "its type as type": ("olmo2", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}, {}),
}


@pytest.mark.parametrize(("kind", "old", "more"), OLD.values(), ids=OLD)
def test_older_keys_come_back_from_a_config(
    kind: str, old: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    given = {"model_type": kind, "num_hidden_layers": 2, "torch_dtype": "float16", **old}
    (tmp_path / "config.json").write_text(json.dumps(given))
    read = json.loads(AutoConfig.from_pretrained(tmp_path).to_json_string())
    both = with_both_ages(read)
    assert {key: both.get(key, "absent") for key in (*old, *more)} == old | more
    assert both["torch_dtype"] == both["dtype"] == "float16"
    assert not [*disagreements(both)] and not missing_keys(both)
    assert {*missing_keys(read)} == {key for key in both if key not in read and both[key] is not None}
    (tmp_path / "config.json").write_text(json.dumps(both))
    assert json.loads(AutoConfig.from_pretrained(tmp_path).to_json_string()) == read


def test_parts_of_a_config_get_their_older_keys() -> None:
    values = json.loads(CONFIG_MAPPING["gemma3"]().to_json_string())
    values["text_config"]["rope_parameters"]["full_attention"]["rope_theta"] = 7e6
    both = with_both_ages(values)["text_config"]
    assert (both["rope_theta"], both["rope_local_base_freq"]) == (7e6, 10000.0)
    wrong = {**values, "text_config": both | {"rope_local_base_freq": 5.0}}
    assert [line.partition(",")[0] for line in disagreements(wrong)] == ["text_config: rope_local_base_freq is 5.0"]


def test_kinds_of_layers_get_names_that_both_know() -> None:
    values = {"model_type": "granitemoehybrid", "layer_types": ["linear_attention", "full_attention"]}
    assert with_both_ages(values)["layer_types"] == ["mamba", "attention"]
    others = {"model_type": "qwen3_next", "layer_types": ["linear_attention", "full_attention"]}
    assert with_both_ages(others) == others


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (None, {"rope_type": "default"}, True),
        ({"type": "linear", "factor": 2}, {"rope_type": "linear", "factor": 2.0}, True),
        ({"type": "linear", "factor": 2}, {"rope_type": "linear", "factor": 2.0, "attention_factor": 1.0}, True),
        (None, LINEAR, False),
        ({"type": "dynamic", "factor": 4.0}, LINEAR, False),
        (LINEAR | {"factor": 2.0}, LINEAR, False),
    ],
)
def test_scalings_are_compared_by_what_they_say(one: Any, other: Any, same: bool) -> None:
    assert same_scaling(one, other) is same
