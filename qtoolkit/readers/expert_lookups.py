"""Know under which names, and with which bits, SGLang looks for the experts of a block, which it holds in one layer.

Source: SGLang 0.5.23, srt/layers/quantization/compressed_tensors/compressed_tensors.py:864-899, `get_moe_scheme`, asks
its config for `gate_proj`, `up_proj` and `down_proj` of the first expert, whatever their class calls them; for experts,
gptq/gptq.py:446 does not ask it at all. vLLM 0.33.0 asks for the names that the class gives:
compressed_tensors_moe.py:37-49, models/mixtral.py:131, auto_gptq.py:69-92.
"""

from collections.abc import Mapping
from typing import Any

from qtoolkit.matching import Expressions
from qtoolkit.readers.fused_layers import fused_unit

_ASKED = ("gate_proj", "up_proj", "down_proj")
# Of config_groups: all linear layers.
_ANY = "Linear"


def is_expert(name: str) -> bool:
    """Check whether a layer belongs to one expert of a block, by its full name."""
    parts = name.split(".")
    return "experts" in parts and sum(part.isdigit() for part in parts) > 1


def hidden_experts(recipes: Mapping[str, Any], values: Mapping[str, Any] | None) -> bool:
    """Return whether a config of schemes says of experts what SGLang does not find under its names.

    Args:
        recipes: how each layer is stored, by its full name; None where it is not quantized.
        values: the `quantization_config`; None before there is one, which then names layers that are left, and those of
            several schemes.

    Example: Mixtral's are called otherwise.

        >>> expert = "h.0.block_sparse_moe.experts.0."
        >>> hidden_experts({f"{expert}w1": None, "h.0.q_proj": 4}, None)
        True
        >>> hidden_experts({f"{expert}gate_proj": None, "h.0.q_proj": 4}, None)
        False
        >>> hidden_experts({f"{expert}w1": 4, "h.0.q_proj": 4}, None)
        False
    """
    units = {
        fused_unit(name): recipe
        for name, recipe in recipes.items()
        if is_expert(name) and name.rpartition(".")[2] not in _ASKED
    }
    if values is None:
        return bool(units) and (None in units.values() or len({*recipes.values()} - {None}) > 1)
    groups = values.get("config_groups")
    if groups is None:
        return False
    schemes = [one for one in groups.values() if isinstance(one, dict)] if isinstance(groups, dict) else []
    targets = [target for one in schemes for target in _strings(one.get("targets"))]
    named = {True: _Targets(_strings(values.get("ignore"))), False: _Targets(targets)}
    return any(
        not (recipe is not None and _ANY in targets) and not named[recipe is None].have(f"{unit}.0.{_ASKED[0]}")
        for unit, recipe in units.items()
    )


def has_own_experts(recipes: Mapping[str, Any], base: Any) -> bool:
    """Return whether experts are stored in another way than a config says of the whole model.

    Args:
        recipes: how each layer is stored, by its full name; None where it is not quantized.
        base: how the config says that all are.
    """
    return any(is_expert(name) and recipe not in (None, base) for name, recipe in recipes.items())


class _Targets:
    """Layers that a config of schemes names: by a full name, or by a regular expression after "re:"."""

    def __init__(self, targets: list[str]) -> None:
        self._names = frozenset(targets)
        self._expressions = Expressions(one.removeprefix("re:") for one in targets if one.startswith("re:"))

    def have(self, name: str) -> bool:
        """Check whether a layer is one of them."""
        return name in self._names or self._expressions.first(name) is not None


def _strings(value: Any) -> list[str]:
    """Return the strings of a list; none of anything else."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
