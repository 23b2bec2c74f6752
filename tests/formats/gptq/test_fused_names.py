"""Entries of `dynamic` match the matrices that servers join, too, where all layers of one agree."""

import re
from collections.abc import Callable
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.formats.gptq.config import describe

PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
MODULES = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
NAMES = (*MODULES, "gate_proj", "up_proj", "down_proj")
LAYERS = {
    (block, name): f"model.layers.{block}.{MODULES.get(name, 'mlp')}.{name}" for block in range(3) for name in NAMES
}


def looked_up(dynamic: dict[str, Any], name: str) -> int:
    """The bits that vLLM 0.33 gives a matrix, 0 for none: quantization/utils/gptq_utils.py, `get_dynamic_override`."""
    for pattern, changes in dynamic.items():
        if pattern.startswith("-:"):
            if re.match(pattern.removeprefix("-:"), name):
                return 0
        elif re.match(pattern.removeprefix("+:"), name):
            return int(changes.get("bits", 4))
    return 4


Bits = Callable[[int, str], int]
CASES: dict[str, Bits] = {
    "q, k and v": lambda _, name: 8 if name in PARTS["qkv_proj"] else 4,
    "those of one block": lambda block, name: 8 if block == 1 and name in PARTS["qkv_proj"] else 4,
    "q, k and v are left": lambda _, name: 0 if name in PARTS["qkv_proj"] else 4,
    "gate and up of a block are left, others have 8": lambda block, name: (
        (0 if block == 2 else 8) if name in PARTS["gate_up_proj"] else 4
    ),
    "down alone": lambda _, name: 8 if name == "down_proj" else 4,
    "one of those that are joined": lambda _, name: 8 if name == "q_proj" else 4,
    "one of those that are joined is left": lambda _, name: 0 if name == "up_proj" else 4,
}


@pytest.mark.parametrize("bits_of", CASES.values(), ids=CASES)
def test_a_matrix_has_the_bits_of_its_layers(bits_of: Bits) -> None:
    bits = {full: bits_of(*key) for key, full in LAYERS.items()}
    left = [name for name, own in bits.items() if not own]
    dynamic = describe(qt.GPTQ(), {name: own for name, own in bits.items() if own}, left).get("dynamic", {})
    assert {name: looked_up(dynamic, name) for name in bits} == bits
    for (block, name), full in LAYERS.items():
        unit = next((unit for unit, parts in PARTS.items() if name in parts), name)
        own = {bits_of(block, part) for part in PARTS.get(unit, (name,))}
        fused = full.removesuffix(name) + unit
        # Of layers that differ, the contract tells that servers take none.
        assert len(own) > 1 or {looked_up(dynamic, fused)} == own, fused
