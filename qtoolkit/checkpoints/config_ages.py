"""Write a model's config such that readers of either age find its keys: transformers 5 renamed some of them.

transformers 4 takes a default for a key that it does not find, without a word: `rope_theta` 10000 instead of 500000.
The older names are those of the config classes of transformers 4.57.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

# Model type -> the older keys of the base period and of the share of a head that is rotated, where not the usual ones.
_FLAT_KEYS = {
    "gpt_neox": ("rotary_emb_base", "rotary_pct"),
    "gpt_neox_japanese": ("rotary_emb_base", "rotary_pct"),
}
_USUAL_KEYS = ("rope_theta", "partial_rotary_factor")
# Model type -> the older keys of the base period of layers that see the whole text, and of those that see a window.
_LAYER_KEYS = {
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
    "gemma3n_text": ("rope_theta", "rope_local_base_freq"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
}
# Model types whose older classes ask for "type" in `rope_scaling`, and refuse other fields than its own.
_TYPE_KEY = ("olmo", "olmo2", "phi3", "phi4_multimodal", "phimoe")
# The ropes that transformers 4 knows. With another in the older keys too, transformers 5 refuses the config.
_OLDER_ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
# Model type -> other older keys, with the newer ones.
_RENAMED = {
    "qwen3_moe": {"num_experts": "num_local_experts"},
    "qwen3_vl_moe_text": {"num_experts": "num_local_experts"},
}
# Model type -> the key of its kinds of layers, and their older names, which transformers 5 reads too.
_LAYER_NAMES = {
    "granitemoehybrid": ("layer_types", {"full_attention": "attention", "linear_attention": "mamba"}),
    "zamba": ("layers_block_type", {"linear_attention": "mamba"}),
    "zamba2": ("layers_block_type", {"linear_attention": "mamba"}),
}


def with_both_ages(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config with the keys of transformers 4 beside those of transformers 5, in its parts too.

    `{"dtype": "float16", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}` gets `torch_dtype` "float16",
    `rope_theta` 5e5 and `rope_scaling` None. Both versions read the result as they would read their own keys alone.
    """
    both = {**values, **_old_keys(values), **{part: with_both_ages(values[part]) for part in _parts(values)}}
    key, names = _LAYER_NAMES.get(str(values.get("model_type")), ("", {}))
    if isinstance(values.get(key), list):
        both[key] = [names.get(name, name) for name in values[key]]
    return both


def disagreements(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each older key of a config that says something else than the newer one."""
    for key, wanted in _old_keys(values).items():
        found = values.get(key)
        if key in values and not (same_scaling(found, wanted) if key == "rope_scaling" else found == wanted):
            yield f"{key} is {found!r:.60}, which transformers 4 reads, and {wanted!r:.60} by the newer key"
    for part in _parts(values):
        yield from (f"{part}: {line}" for line in disagreements(values[part]))


def missing_keys(values: Mapping[str, Any]) -> list[str]:
    """Return the older keys that a config lacks, so that transformers 4 would take its own defaults."""
    missing = [key for key, wanted in _old_keys(values).items() if wanted is not None and key not in values]
    return missing + [f"{part}.{key}" for part in _parts(values) for key in missing_keys(values[part])]


def same_scaling(one: Any, other: Any) -> bool:
    """Check whether two values of `rope_scaling` say the same: in all fields that both have, and in their type.

    Args:
        one, other: None, or a dict whose type is under "rope_type" or, in older files, "type".
    """
    first, second = _named(one), _named(other)
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def _named(scaling: Any) -> dict[str, Any]:
    """Return the fields of a `rope_scaling` with its type as "rope_type", which is "default" where there is none."""
    fields = dict(scaling) if isinstance(scaling, Mapping) else {}
    older = fields.pop("type", "default")
    return {"rope_type": older, **fields}


def _old_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the older keys of a config, or of a part of one, made from the newer ones that it has."""
    kind = str(values.get("model_type"))
    dtype = values.get("dtype")
    keys: dict[str, Any] = {"torch_dtype": dtype} if isinstance(dtype, str) else {}
    keys |= {older: values[newer] for older, newer in _RENAMED.get(kind, {}).items() if newer in values}
    rope = values.get("rope_parameters")
    if not isinstance(rope, Mapping) or not rope or not _converts_ropes(kind):
        return keys
    nested = [inner for inner in rope.values() if isinstance(inner, Mapping)]
    if any(one.get("rope_type", "default") not in _OLDER_ROPES for one in nested or [rope]):
        return keys
    if not nested:
        theta, share = _FLAT_KEYS.get(kind, _USUAL_KEYS)
        keys |= {theta: rope.get("rope_theta"), "rope_scaling": _scaling(rope, kind)}
        return keys | ({share: rope[_USUAL_KEYS[1]]} if _USUAL_KEYS[1] in rope else {})
    whole, window = rope.get("full_attention"), rope.get("sliding_attention")
    theta, local = _LAYER_KEYS.get(kind, ("rope_theta", ""))
    if isinstance(whole, Mapping):
        keys |= {theta: whole.get("rope_theta"), "rope_scaling": _scaling(whole, kind)}
    if isinstance(window, Mapping) and local:
        keys[local] = window.get("rope_theta")
    return keys


@cache
def _converts_ropes(kind: str) -> bool:
    """Check whether transformers 5 makes `rope_parameters` of a type's older keys beside it.

    Types that transformers 4 never had (MiMo-V2-Flash, Mellum) take `rope_scaling` for `rope_parameters` as it stands.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return True
    left: Mapping[str, Any] = CONFIG_MAPPING[kind]().convert_rope_params_to_dict(rope_scaling=None)
    return "rope_scaling" not in left


def _scaling(rope: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return the older `rope_scaling`, which has neither the base period nor the share; None without any scaling."""
    scaling = {key: value for key, value in rope.items() if key not in _USUAL_KEYS}
    if scaling in ({}, {"rope_type": "default"}):
        return None
    if kind in _TYPE_KEY and "rope_type" in scaling:
        scaling["type"] = scaling.pop("rope_type")
        if kind != "phimoe":
            # It stands in the config itself.
            scaling.pop("original_max_position_embeddings", None)
    return scaling


def _parts(values: Mapping[str, Any]) -> list[str]:
    """Return the keys of the configs that a config holds, such as `text_config`."""
    names = (key for key in values if key.endswith("_config") and key != "quantization_config")
    return [name for name in names if isinstance(values[name], Mapping)]
