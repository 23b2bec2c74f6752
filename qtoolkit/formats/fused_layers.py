"""Know which layers programs that serve models join into one layer, so that these must be quantized alike.

Source: `packed_modules_mapping` of the model classes in vLLM 0.33, and its compressed_tensors_moe.py for experts.
"""

# Layers of one module, by the last part of their names.
_FUSED = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)
_UNIT_OF = {part: "+".join(parts) for parts in _FUSED for part in parts}


def fused_unit(name: str) -> str:
    """Return the name of the unit that a layer is part of: layers that are quantized alike; its own name if it is none.

    The layers of all experts of a block are one unit.

    Args:
        name: a layer's full name in the model or the file.

    Example: queries, keys and values; a projection that is fused in the model already; an expert.

        >>> fused_unit("model.layers.3.self_attn.k_proj")
        'model.layers.3.self_attn.q_proj+k_proj+v_proj'
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
