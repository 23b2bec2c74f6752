"""Outputs and inputs of quantized layers, by the shapes of the tensors that a file has."""

from typing import Any

import pytest

from qtoolkit.formats import get_format

LAYER = "model.layers.0.self_attn.k_proj"
BITS = {"num_bits": 3, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
INPUTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
AUTO_AWQ = {"packing_format": "auto_round:auto_awq", "bits": 4, "group_size": 32}


def scheme(**changes: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if "input_activations" in changes else "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], **changes}},
    }


# A layer of 192 outputs and 64 inputs: 64 * 3 bits are 6 words, 64 * 4 bits are 8.
SHAPES: list[tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = [
    ("gptq", {"bits": 4}, {"qweight": (8, 192), "g_idx": (64,), "scales": (2, 192)}),
    ("gptq", {"bits": 3}, {"qweight": (6, 192), "g_idx": (64,)}),
    ("awq", {"bits": 4}, {"qweight": (64, 24), "scales": (2, 192)}),
    ("auto-round", AUTO_AWQ, {"qweight": (64, 24), "scales": (2, 192)}),
    ("auto-round", {"bits": 4}, {"qweight": (8, 192), "g_idx": (64,)}),
    ("compressed-tensors", scheme(weights=BITS), {"weight_packed": (192, 6), "weight_scale": (192, 2)}),
    (
        "compressed-tensors",
        scheme(weights=FLOAT8, input_activations=INPUTS),
        {"weight": (192, 64), "weight_scale": (192, 1)},
    ),
]


@pytest.mark.parametrize(("name", "values", "tensors"), SHAPES)
def test_shapes_are_those_of_the_layer(name: str, values: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> None:
    shapes = {f"{LAYER}.{part}": shape for part, shape in tensors.items()} | {"model.norm.weight": (64,)}
    assert get_format(name).layer_shapes(values, shapes) == {LAYER: (192, 64)}


@pytest.mark.parametrize("name", ["gptq", "awq", "auto-round", "compressed-tensors", "mlx"])
def test_a_config_that_is_not_read_has_none(name: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {f"{LAYER}.{part}": (64,) for part in ("qweight", "weight_scale", "weight")}
    assert get_format(name).layer_shapes({"bits": {}, "packing_format": [], "version": 7}, shapes) == {}
