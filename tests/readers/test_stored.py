"""How a model is stored, from a config and from the names of its layers."""

from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.methods import MethodConfig, stored_of
from qtoolkit.readers import Stored, describe_stored, readers_of, reading_of, units_of
from qtoolkit.readers.stored import misnamed_units, mixed_units

BLOCK = [f"model.layers.0.self_attn.{end}_proj" for end in "qkvo"]
BLOCK += [f"model.layers.0.mlp.{end}_proj" for end in ("gate", "up", "down")]
QKV, GATE_UP = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.gate_up_proj"


def test_a_layout_is_that_of_the_format_that_is_written() -> None:
    layouts = {config.format: stored_of(config).layout for config in (qt.GPTQ(checkpoint_format="gptq_v2"),)}
    layouts |= {name: stored_of(qt.GPTQ(format=name)).layout for name in ("compressed-tensors", "mlx")}
    assert layouts == {"gptq": "gptq_v2", "compressed-tensors": "", "mlx": ""}
    assert reading_of("qtoolkit", readers_of(stored_of(qt.GPTQ(format="compressed-tensors")))).loads


def bits(**changes: int) -> dict[str, int]:
    return {name: changes.get(name.rpartition(".")[2].removesuffix("_proj"), 4) for name in BLOCK}


def test_units_are_what_servers_fuse() -> None:
    assert units_of(BLOCK) == {QKV: tuple(BLOCK[:3]), GATE_UP: tuple(BLOCK[4:6])}
    assert units_of(["h.0.qkv_proj", "h.0.down_proj", "lm_head", "q_proj"]) == {}
    experts = [f"model.layers.1.mlp.experts.{index}.{end}" for index in range(2) for end in ("w1", "w2")]
    assert units_of(experts) == {"model.layers.1.mlp.experts": tuple(experts)}


@pytest.mark.parametrize(
    ("layers", "left", "mixed"),
    [
        (bits(), (), ()),
        (bits(down=8, o=8), (), ()),
        (bits(v=8), (), (QKV,)),
        (bits(q=3, k=3, v=3, up=8), (), (GATE_UP,)),
        ({name: 4 for name in BLOCK if "gate" not in name}, ["model.layers.0.mlp.gate_proj", "lm_head"], (GATE_UP,)),
    ],
)
def test_a_unit_is_mixed_where_its_layers_differ(layers: dict[str, int], left: Any, mixed: tuple[str, ...]) -> None:
    assert mixed_units(dict.fromkeys(left) | layers) == mixed


@pytest.mark.parametrize(
    ("dynamic", "misnamed"),
    [
        ({r"+:^.*\.q_proj$": {"bits": 8}, r"+:^.*\.(k|v)_proj$": {"bits": 8}}, (QKV,)),
        ({r"+:^.*\.(q|k|v|qkv)_proj$": {"bits": 8}}, ()),
        ({r"-:.*qkv_proj": {}}, (QKV,)),
        ({r"+:(": {"bits": 8}}, (QKV,)),
        ({r"+:.*self_attn.*": {"bits": 8}}, ()),
        ({r"+:.*self_attn.*": [8]}, (QKV,)),
    ],
)
def test_dynamic_must_match_the_fused_name(dynamic: dict[str, Any], misnamed: tuple[str, ...]) -> None:
    assert misnamed_units(bits(q=8, k=8, v=8), {"bits": 4, "dynamic": dynamic}) == misnamed


CONFIGS: list[tuple[MethodConfig, dict[str, Any]]] = [
    (qt.NF4(), {"format": "bitsandbytes", "bits": (4,), "group_sizes": ()}),
    (qt.Int8(), {"format": "bitsandbytes", "bits": (8,)}),
    (qt.GPTQ(bits=3, sym=False, group_size=64), {"format": "gptq", "bits": (3,), "sym": False, "group_sizes": (64,)}),
    (qt.GPTQ(rules={"*.v_proj": {"bits": 8}}), {"bits": (4, 8), "widths": 2}),
    (qt.GPTQ(desc_act=True), {"desc_act": True, "layout": "gptq"}),
    (qt.GPTQ(desc_act=True, group_size=-1), {"desc_act": False, "group_sizes": (-1,)}),
    (qt.GPTQ(format="compressed-tensors", embeddings=8), {"format": "compressed-tensors", "embeddings": 8}),
    (qt.GPTQ(format="compressed-tensors", sym=False), {"expands": True, "packs_zero_points": False}),
    (qt.FP8(), {"format": "compressed-tensors", "bits": (8,), "group_sizes": (-1,), "input_type": "float8"}),
    (qt.W8A8(), {"format": "compressed-tensors", "bits": (8,), "sym": True, "input_type": "int8"}),
    (qt.AbsMax(), {"input_type": "", "sym": True, "group_sizes": (-1,), "bits": (8,)}),
    (qt.ZeroPoint(bits=4, granularity="group", group_size=32), {"sym": False, "group_sizes": (32,), "bits": (4,)}),
]


@pytest.mark.parametrize(("config", "expected"), CONFIGS, ids=[str(config)[:60] for config, _ in CONFIGS])
def test_a_config_tells_how_its_result_is_stored(config: MethodConfig, expected: dict[str, Any]) -> None:
    stored = stored_of(config)
    assert {name: getattr(stored, name) for name in expected} == expected


def test_layers_tell_more_than_the_config() -> None:
    config = qt.GPTQ(rules={"*.v_proj": {"bits": 8}, "*.nothing": {"bits": 2}})
    stored = stored_of(config, dict.fromkeys([*BLOCK, "lm_head"], 0))
    assert (stored.bits, stored.mixed_units) == ((4, 8), (QKV,))
    assert stored_of(config, bits(q=8, k=8, v=8)).mixed_units == ()


def test_groups_of_single_layers_are_told_and_mix_a_unit() -> None:
    """vLLM joins q, k and v into one matrix, which has one group size (compressed_tensors.py, `get_scheme_dict`)."""
    own = {"granularity": "group", "group_size": 32}
    names = dict.fromkeys(BLOCK, 0)
    one = stored_of(qt.AbsMax(granularity="channel", rules={"*.q_proj": own}), names)
    assert (one.bits, one.group_sizes, one.mixed_units) == ((8,), (-1, 32), (QKV,))
    alike = {f"*.{end}_proj": own for end in "qkvo"}
    assert stored_of(qt.AbsMax(granularity="channel", rules=alike), names).mixed_units == ()


def test_layers_of_blocks_that_are_left_are_named() -> None:
    """Not what no program quantizes: heads, routers; nor what is quantized under the name of a plain weight."""
    names = ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate", "lm_head", "model.layers.1.self_attn.k_proj"]
    stored = describe_stored("gptq", {"bits": 4}, {"model.layers.1.self_attn.k_proj": 4}, iter(names))
    assert stored.left == ("model.layers.0.mlp.down_proj",)
    assert describe_stored("gptq", {"bits": 4}, {}, names).left == ()


def test_the_first_scheme_of_a_config_tells_what_inputs_are_rounded_to() -> None:
    """In other people's models too, which need not be read here."""
    for kind, expected in (("float", "float8"), ("int", "int8"), (1, ""), (None, "")):
        values = {"config_groups": {"group_0": {"input_activations": {"type": kind}}}}
        assert describe_stored("compressed-tensors", {}, {}, values=values).input_type == expected
    for odd in ({"config_groups": []}, {"config_groups": {"a": 1}}, {"config_groups": {"a": {"input_activations": 1}}}):
        assert describe_stored("compressed-tensors", {}, {}, values=odd).input_type == ""


def test_a_config_file_may_hold_anything() -> None:
    odd = describe_stored("gptq", {"bits": "4", "group_size": [1]}, {}, values={"format": {}, "dynamic": []})
    assert (odd.bits, odd.group_sizes, odd.misnamed_units) == ((), (), ())


EXPERT = "model.layers.0.mlp.experts.3.up_proj"


def loads(program: str, stored: Stored) -> bool:
    return reading_of(program, readers_of(stored)).loads


def test_mlx_joins_the_scales_of_some_architectures_experts() -> None:
    """mlx_lm/models/qwen3_moe.py, `sanitize`, joins weights alone; mixtral.py scales and biases too."""
    options = {"bits": 4, "group_size": 64}
    mixtral = describe_stored("mlx", options, {EXPERT: 4}, architecture="MixtralForCausalLM")
    qwen = describe_stored("mlx", options, {EXPERT: 4}, architecture="Qwen3MoeForCausalLM")
    assert loads("mlx-lm", mixtral) and not loads("mlx-lm", qwen)
    beside = describe_stored("mlx", options, {BLOCK[0]: 4}, [EXPERT], architecture="Qwen3MoeForCausalLM")
    assert loads("mlx-lm", beside)


def test_transformers_joins_no_plain_experts_beside_compressed_tensors() -> None:
    options = {"bits": 4, "group_size": 128}
    assert loads("transformers", describe_stored("compressed-tensors", options, {BLOCK[0]: 4, EXPERT: 4}))
    assert not loads("transformers", describe_stored("compressed-tensors", options, {BLOCK[0]: 4}, [EXPERT]))
    # A shared expert is no expert among others.
    shared = "model.layers.0.mlp.shared_expert.up_proj"
    assert loads("transformers", describe_stored("compressed-tensors", options, {BLOCK[0]: 4}, [shared]))


def test_experts_one_by_one_are_told() -> None:
    config = qt.GPTQ(format="mlx")
    expert, gate = "model.layers.0.mlp.experts.0.up_proj", "model.layers.0.mlp.gate"
    stored = stored_of(config, {expert: 4, gate: 4}, architecture="Qwen3MoeForCausalLM")
    assert (stored.experts, stored.plain_experts) == ("Qwen3MoeForCausalLM", False)
    left = stored_of(config, {gate: 4}, [expert], architecture="Qwen3MoeForCausalLM")
    assert (left.experts, left.plain_experts) == ("", True)
