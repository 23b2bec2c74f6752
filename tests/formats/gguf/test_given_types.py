"""Rules give tensors of a file other types than llama.cpp's choice; what cannot have them is told or refused."""

from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.models.from_memory import open_loaded
from qtoolkit.planning.planner import plan_job
from qtoolkit.records import Plan
from tests.formats.gguf.small_models import small_model

pytestmark = pytest.mark.slow

DOWN, Q = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.q_proj"


def planned(title: str, rules: dict[str, Any], **options: Any) -> Plan:
    config = qt.GGUF("Q4_0", rules=rules, **options)
    return plan_job(open_loaded(small_model(title), None), config, "cpu", None, rss=0).plan


def bits(plan: Plan) -> dict[str, float]:
    """Of each layer, scales included: 8.5 of Q8_0, 5.5 of Q5_0, 4.5 of Q4_0, 16 of F16, 32 of F32."""
    return {layer.name: 8 * layer.disk_bytes / layer.num_weights for layer in plan.layers}


def test_rules_count_by_the_names_of_modules_and_the_later_one_wins() -> None:
    rules = {"*.down_proj": {"tensor_type": "Q8_0"}, DOWN: {"tensor_type": "Q5_0"}, "lm_head": {"tensor_type": "F16"}}
    found = bits(planned("mistral", rules))
    assert (found[DOWN], found[DOWN.replace("1", "0")], found[Q], found["lm_head"]) == (5.5, 8.5, 4.5, 16)


def test_one_type_for_all_leaves_what_rules_name_and_what_is_excluded() -> None:
    rules = {Q: {"tensor_type": "Q5_0"}}
    found = planned("mistral", rules, tensor_type="Q8_0", exclude=(DOWN,))
    types = bits(found)
    assert types.pop(Q) == 5.5 and DOWN not in types and set(types.values()) == {8.5}
    (note,) = [note for note in found.notes if note.startswith("tensors in the file")]
    assert "1 x Q5_0" in note and "1 x F16" in note and note.endswith("llama.cpp's choice for Q4_0 but for 15 tensors")


def test_rows_that_do_not_divide_become_what_llama_cpp_takes_instead() -> None:
    """Inputs of 64 and 96 are no multiple of 256."""
    plan = planned("mistral", {"*.down_proj": {"tensor_type": "Q4_K"}})
    assert bits(plan)[DOWN] == 5.5


@pytest.mark.parametrize("title", ["mixtral", "qwen3_moe"])
def test_all_experts_of_a_layer_have_one_type(title: str) -> None:
    first = next(name for name in bits(planned(title, {})) if ".experts.0." in name)
    stack, kind = first.rpartition(".0.")[0], first.rpartition(".")[2]
    found = bits(planned(title, {f"{stack}.*.{kind}": {"tensor_type": "Q8_0"}}))
    own = {name: value for name, value in found.items() if name.startswith(stack) and name.endswith(kind)}
    others = {value for name, value in found.items() if ".experts." in name and name not in own}
    assert set(own.values()) == {8.5} and others == {4.5}
    with pytest.raises(ConfigError, match=r"rules: the experts of blk\.0.* are one tensor .* Q8_0 and what llama.cpp"):
        planned(title, {first: {"tensor_type": "Q8_0"}})


def test_a_router_stays_in_float32() -> None:
    found = bits(planned("qwen3_moe", {"*": {"tensor_type": "Q8_0"}}))
    assert {value for name, value in found.items() if name.endswith("mlp.gate")} <= {32}
    assert {value for name, value in found.items() if ".experts." in name} == {8.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rules": {"*.q_proj": {"tensor_type": "Q4_K_M"}}},
            "of GGUF: tensor_type must be one of None, 'Q2_K'",
        ),
        ({"rules": {"*.q_proj": {"bits": 4}}}, "has no option 'bits': a layer may have tensor_type"),
        (
            {"quant_type": "Q3_K_M", "target_bits": 4.0},
            "target_bits gives each tensor its type, and so does quant_type",
        ),
        ({"quant_type": "Q3_K_M", "target_size": 9}, "target_size gives each tensor its type, and so does quant_type"),
    ],
)
def test_what_is_no_type_of_a_tensor_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qt.GGUF(**options)
