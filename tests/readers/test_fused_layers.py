"""Layers that programs join are found by their names, wherever in a model they are."""

import doctest

import pytest

from qtoolkit.readers import fused_layers, fused_unit

# Layers of one block of an architecture, by the units that a serving program makes of them.
UNITS = {
    "llama": [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ],
    "phi3": [["self_attn.qkv_proj"], ["self_attn.o_proj"], ["mlp.gate_up_proj"], ["mlp.down_proj"]],
    "mixtral": [
        ["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"],
        ["block_sparse_moe.gate"],
        [f"block_sparse_moe.experts.{expert}.{part}" for expert in (0, 11) for part in ("w1", "w2", "w3")],
    ],
    "qwen2_moe": [
        ["mlp.gate"],
        ["mlp.experts.0.gate_proj", "mlp.experts.1.down_proj"],
        ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"],
        ["mlp.shared_expert.down_proj"],
        ["mlp.shared_expert_gate"],
    ],
    "internlm": [["mlp.w1", "mlp.w3"], ["mlp.w2"]],
    "qwen3_next": [
        ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z"],
        ["linear_attn.in_proj_b", "linear_attn.in_proj_a"],
        ["linear_attn.out_proj"],
    ],
    "deepseek": [["self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"], ["self_attn.q_b_proj"]],
    "gpt2": [["attn.c_attn"], ["attn.c_proj"], ["mlp.c_fc"], ["mlp.c_proj"]],
}


@pytest.mark.parametrize("architecture", UNITS)
def test_the_layers_of_a_block(architecture: str) -> None:
    expected = UNITS[architecture]
    found: dict[str, list[str]] = {}
    for block in ("model.layers.2", "model.layers.12"):
        for name in (name for unit in expected for name in unit):
            found.setdefault(fused_unit(f"{block}.{name}"), []).append(f"{block}.{name}")
    assert list(found.values()) == [[f"model.layers.{n}.{name}" for name in unit] for n in (2, 12) for unit in expected]


def test_the_example_in_the_docstring() -> None:
    assert doctest.testmod(fused_layers).failed == 0
