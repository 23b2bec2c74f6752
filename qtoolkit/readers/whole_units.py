"""Say how layers that programs join are stored alike again, where some differ or are not quantized."""

from collections.abc import Iterable, Mapping
from typing import Any

from qtoolkit.readers.fused_layers import EXPERTS, units_of
from qtoolkit.readers.matrices import PLACES, named, within_block


def advice_on_units(recipes: Mapping[str, Any]) -> str:
    """Return what makes each fused matrix whole, options of a recipe in words; empty where all are.

    Args:
        recipes: how each layer is stored, by its full name: anything that can be compared, None where it is not
            quantized.

    Example: the values of one block are excluded, those of the other are not.

        >>> attention = {"h.0.attn.q_proj": 4, "h.0.attn.v_proj": None, "h.1.attn.q_proj": 4, "h.1.attn.v_proj": 4}
        >>> advice_on_units(attention)
        "exclude 'h.0.attn.q_proj' too, or quantize 'h.0.attn.v_proj' too"
        >>> advice_on_units(attention | {"h.1.attn.v_proj": None})
        "exclude '*.attn.q_proj' too, or quantize '*.attn.v_proj' too"
        >>> advice_on_units(attention | {"h.0.attn.v_proj": 8})
        'quantize q_proj and v_proj alike'
    """
    units = units_of(recipes)
    mixed = {unit: members for unit, members in units.items() if len({recipes[name] for name in members}) > 1}
    experts = {unit for unit in mixed if unit.endswith(EXPERTS)}
    halves = [name for unit in mixed.keys() - experts if None in map(recipes.get, mixed[unit]) for name in mixed[unit]]
    ways = []
    if halves:
        taken, left = ([name for name in halves if (recipes[name] is None) is is_left] for is_left in (False, True))
        ways.append(f"exclude {_patterns(taken, recipes)} too, or quantize {_patterns(left, recipes)} too")
    if any(recipes[name] is None for unit in experts for name in mixed[unit]):
        ways.append(f"exclude '*{EXPERTS}.*', or quantize all experts")
    for unit, members in mixed.items():
        if all(recipes[name] is not None for name in members):
            ends = ["all experts"] if unit in experts else [_end(name) for name in _in_order(members)]
            ways.append(f"quantize {_listed(ends)} alike")
    return "; ".join(dict.fromkeys(ways))


def _patterns(names: Iterable[str], every: Iterable[str]) -> str:
    """Return what names some layers: a pattern for all that are called so in their blocks, else full names."""
    wanted = set(names)
    others = {within_block(name) for name in every if name not in wanted}
    found = (name if within_block(name) in others else f"*.{within_block(name)}" for name in _in_order(wanted))
    return _listed(named(dict.fromkeys(f"{name!r}" for name in found)))


def _in_order(names: Iterable[str]) -> list[str]:
    """Return the names of layers in the order in which they are joined."""
    return sorted(names, key=lambda name: (PLACES.get(_end(name), 0), name))


def _end(name: str) -> str:
    """Return the last part of a name."""
    return name.rpartition(".")[2]


def _listed(words: Iterable[str]) -> str:
    """Return words as a sentence lists them: "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
