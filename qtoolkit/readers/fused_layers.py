"""Know which layers programs that serve models join into one layer, so that these must be quantized alike.

Source: `packed_modules_mapping` of the model classes in vLLM 0.33, and its compressed_tensors_moe.py for experts.
"""

from collections.abc import Iterable

# Layers of one module that programs join, by the last part of their names -> that of the joined layer.
FUSED = {
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
    ("w1", "w3"): "gate_up_proj",
    ("q_a_proj", "kv_a_proj_with_mqa"): "fused_qkv_a_proj",
    ("in_proj_qkv", "in_proj_z"): "in_proj_qkvz",
    ("in_proj_b", "in_proj_a"): "in_proj_ba",
}
# How the name of what holds all experts of a block ends.
EXPERTS = ".experts"
_UNIT_OF = {part: unit for parts, unit in FUSED.items() for part in parts}


def fused_unit(name: str) -> str:
    """Return the name of the layer that a layer is joined into; its own name if it is joined with none.

    All layers of all experts of a block are joined into one.

    Args:
        name: a layer's full name in the model or the file.

    Example: queries, keys and values; a projection that is fused in the model already; an expert.

        >>> fused_unit("model.layers.3.self_attn.k_proj")
        'model.layers.3.self_attn.qkv_proj'
        >>> fused_unit("model.layers.3.self_attn.qkv_proj")
        'model.layers.3.self_attn.qkv_proj'
        >>> fused_unit("model.layers.3.mlp.experts.7.down_proj")
        'model.layers.3.mlp.experts'
    """
    parts = name.split(".")
    # The block's number, and the expert's.
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    if len(numbers) > 1:
        return ".".join(parts[: numbers[1]])
    return ".".join([*parts[:-1], _UNIT_OF.get(parts[-1], parts[-1])])


def units_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the fused matrices of servers with the layers of each, those of which there are two layers or more.

    All experts of a block are one.

    Example: "h.0.q_proj" and "h.0.k_proj" make {"h.0.qkv_proj": ("h.0.q_proj", "h.0.k_proj")}.
    """
    units: dict[str, list[str]] = {}
    for name in names:
        units.setdefault(fused_unit(name), []).append(name)
    return {unit: tuple(members) for unit, members in units.items() if len(members) > 1}
