"""What SGLang finds in a config of the experts that it holds in one layer, as its own functions answer."""

import doctest
import re
from collections.abc import Iterable
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.formats.compressed_tensors.config import describe
from qtoolkit.formats.grouped import Grid
from qtoolkit.methods import stored_of
from qtoolkit.readers import describe_stored, expert_lookups, fused_unit, readers_of, reading_of, whole_units

ATTENTION = "model.layers.0.self_attn.o_proj"
MIXTRAL = [f"model.layers.0.block_sparse_moe.experts.{expert}.{end}" for expert in (0, 1) for end in ("w1", "w2", "w3")]
QWEN = [f"model.layers.0.mlp.experts.{expert}.{end}_proj" for expert in (0, 1) for end in ("gate", "up", "down")]
FOUR, EIGHT = (Grid(bits=bits, group_size=32, sym=True) for bits in (4, 8))


def same(name: str, targets: Iterable[str]) -> bool:
    """`check_equal_or_regex_match` of SGLang 0.5.23, compressed_tensors/utils.py:83-107."""
    return any(
        re.match(target[3:], name) is not None
        if target.startswith("re:")
        else name == target or name.endswith("." + target)
        for target in targets
    )


def found_by_sglang(values: dict[str, Any], unit: str) -> Any:
    """What its `get_moe_scheme` finds of the experts of a block: bits, None for none, or that it refuses them."""
    asked = [f"{unit}.0.{end}_proj" for end in ("gate", "up", "down")]
    if all(same(name, values["ignore"]) for name in asked):
        return None
    groups = [(group["targets"], group["weights"]["num_bits"]) for group in values["config_groups"].values()]
    found = [bits for targets, bits in groups if same(asked[0], targets) or "Linear" in targets]
    return found[0] if found else "refused"


CASES: dict[str, tuple[list[str], Grid | None, Grid]] = {
    "Mixtral's left": (MIXTRAL, None, FOUR),
    "Qwen's left": (QWEN, None, FOUR),
    "Mixtral's alike": (MIXTRAL, FOUR, FOUR),
    "Mixtral's in 8 bits beside 4": (MIXTRAL, EIGHT, FOUR),
    "Qwen's in 8 bits beside 4": (QWEN, EIGHT, FOUR),
}


@pytest.mark.parametrize(("experts", "own", "base"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("is_saved", [False, True], ids=["planned", "saved"])
def test_experts_are_hidden_where_sglang_takes_them_for_others(
    experts: list[str], own: Grid | None, base: Grid, is_saved: bool
) -> None:
    quantized = {ATTENTION: base} | ({} if own is None else dict.fromkeys(experts, own))
    left = [] if own else experts
    values = describe(base, quantized, left, {})
    expected = None if own is None else own.bits
    bits = {name: grid.bits for name, grid in quantized.items()}
    stored = describe_stored(
        "compressed-tensors", {"bits": 4, "group_size": 32}, bits, left, values=values if is_saved else None
    )
    is_right = found_by_sglang(values, fused_unit(experts[0])) == expected
    assert stored.hidden_experts != is_right
    assert reading_of("sglang", readers_of(stored)).loads == is_right
    # Which asks for the names that its class of the model gives.
    assert reading_of("vllm", readers_of(stored)).loads


def test_patterns_of_other_programs_may_name_all_experts() -> None:
    values: dict[str, Any] = {"config_groups": {"group_0": {"targets": ["Linear"]}}, "ignore": ["re:.*experts.*"]}
    options = {"bits": 4, "group_size": 32}
    assert not describe_stored("compressed-tensors", options, {ATTENTION: 4}, MIXTRAL, values=values).hidden_experts
    named = {"config_groups": {"a": {"targets": [ATTENTION]}, "b": {"targets": ["re:.*experts.*"]}}, "ignore": []}
    quantized = {ATTENTION: 8} | dict.fromkeys(MIXTRAL, 4)
    assert not describe_stored("compressed-tensors", options, quantized, values=named).hidden_experts
    for ignore in (["re:("], "re:.*", [3], [MIXTRAL[0]]):
        odd = values | {"ignore": ignore}
        assert describe_stored("compressed-tensors", options, {ATTENTION: 4}, MIXTRAL, values=odd).hidden_experts


def test_gptq_gives_experts_the_options_of_the_model() -> None:
    mixed = qt.GPTQ(rules={"*.experts.*": {"bits": 8}})
    bits = {ATTENTION: 4} | dict.fromkeys(QWEN, 8)
    assert not stored_of(qt.GPTQ(), {ATTENTION: 4}, QWEN).own_experts
    for config, layers, left, loads in (
        (mixed, bits, [], False),
        (qt.GPTQ(), dict.fromkeys(bits, 4), [], True),
        (qt.GPTQ(rules={"*.o_proj": {"bits": 8}}), dict.fromkeys(bits, 4) | {ATTENTION: 8}, [], True),
        (qt.GPTQ(), {ATTENTION: 4}, QWEN, False),
    ):
        readings = readers_of(stored_of(config, layers, left))
        assert reading_of("sglang", readings).loads == loads
        assert reading_of("vllm", readings).loads


@pytest.mark.parametrize("module", [expert_lookups, whole_units])
def test_the_examples_in_the_docstrings(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_what_makes_experts_and_units_of_several_blocks_whole() -> None:
    left = describe_stored("gptq", {"bits": 4}, dict.fromkeys(QWEN[:3], 4), QWEN[3:])
    assert left.whole == "exclude '*.experts.*', or quantize all experts"
    queries = {f"model.layers.{block}.self_attn.q_proj": 4 for block in range(5)}
    keys = [name.replace("q_proj", "k_proj") for name in queries]
    stored = describe_stored("gptq", {"bits": 4}, {**queries, keys[0]: 4}, keys[1:])
    assert stored.unlike_units == ("self_attn.qkv_proj",)
    most = "'model.layers.{block}.self_attn.{end}', 'model.layers.2.self_attn.{end}' and 2 others"
    first, second = (most.format(block=1, end=end) for end in ("q_proj", "k_proj"))
    assert stored.whole == f"exclude {first} too, or quantize {second} too"
    reading = reading_of("vllm", readers_of(stored))
    assert reading.remedy == stored.whole and "layers of self_attn.qkv_proj" in reading.why
