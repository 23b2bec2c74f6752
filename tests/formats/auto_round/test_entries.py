"""Which layers an AutoRound entry is of: those that auto-round finds by `re.search`, the first entry that does."""

import re
from typing import Any

import pytest

from qtoolkit.errors import CheckpointError
from qtoolkit.formats.auto_round.config import translate
from qtoolkit.formats.gptq.misread import DynamicOptions

NAMES = [
    f"model.layers.{index}.{part}"
    for index in (1, 11)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate", "mlp.gate_proj", "mlp.down_proj")
]
CASES: dict[str, dict[str, Any]] = {
    "a name": {"extra_config": {"model.layers.1.mlp.gate": {"bits": 8}}},
    "a part of names": {"extra_config": {"mlp.gate": {"bits": 8}}},
    "an expression": {"extra_config": {r".*mlp\.gate.*": {"bits": 16}, r"q_proj$": {"group_size": 64}}},
    "the first of two": {"extra_config": {"down": {"bits": 8}, "down_proj": {"bits": 16}}},
    "the first that leaves": {"extra_config": {"down": {"bits": 16}, "mlp": {"bits": 2}}},
    "a name before expressions": {"extra_config": {"mlp": {"bits": 16}, "model.layers.11.mlp.gate": {"bits": 3}}},
    "a name with nothing": {"extra_config": {"mlp": {"bits": 16}, "model.layers.11.mlp.gate": {}}},
    "an expression with nothing": {"extra_config": {"mlp": {}, "gate": {"bits": 16}}},
    "no expression": {"extra_config": {"mlp.(": {"bits": 16}, "gate": {"bits": 8}}},
    "alternatives": {"extra_config": {"^model.layers.1.|k_proj": {"bits": 16}}},
    "left modules": {"modules_to_not_convert": ["gate$"], "extra_config": {"model.layers.1.mlp.gate": {"bits": 8}}},
}


def by_auto_round(values: dict[str, Any], name: str) -> dict[str, Any]:
    """A layer's options as auto_round/inference finds them (`skip_not_convert_modules`, `_expand_regex_config`)."""
    extra = dict(values.get("extra_config", {}))
    if any(re.search(one, name) for one in values.get("modules_to_not_convert", [])):
        extra[name] = {"bits": 16}
    if name in extra:
        return dict(extra[name])
    for key, own in values.get("extra_config", {}).items():
        if key in NAMES or own == {}:
            continue
        try:
            found = re.search(key, name)
        except re.error:
            continue
        if found:
            return dict(own)
    return {}


@pytest.mark.parametrize("case", CASES)
def test_each_layer_has_the_options_that_auto_round_gives_it(case: str) -> None:
    packed = translate({"packing_format": "auto_round", "bits": 4, "group_size": 32} | CASES[case], NAMES)
    awq = translate({"packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32} | CASES[case], NAMES)
    for name in NAMES:
        expected = by_auto_round(CASES[case], name)
        is_left = expected.get("bits", 4) >= 16
        assert DynamicOptions(packed.get("dynamic", {})).of(name) == (None if is_left else expected)
        assert (name in (awq["modules_to_not_convert"] or [])) == is_left


@pytest.mark.parametrize("left", ["gate", [4], {"gate": 1}])
def test_left_modules_are_a_list_of_names(left: Any) -> None:
    with pytest.raises(CheckpointError, match=r"modules_to_not_convert .* it must be a list of names"):
        translate({"packing_format": "auto_round", "modules_to_not_convert": left})
