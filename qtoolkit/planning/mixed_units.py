"""Tell which layers differ that programs join into one, and which programs refuse that."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import Any

from qtoolkit.methods import MethodConfig, MixedConfig
from qtoolkit.readers import FUSED, advice_on_units, fused_unit, refusing_mixed_units
from qtoolkit.records import LayerPlan

# Mixtures that are told one by one.
_MOST_NOTES = 3

# The options that a layer has of its own, by name; None for a layer that is not quantized.
Options = tuple[tuple[str, Any], ...] | None


def notes_on_mixed_units(
    config: MethodConfig, layers: Iterable[LayerPlan], skipped: Iterable[LayerPlan]
) -> tuple[str, ...]:
    """Return a note for each mixture within units of layers that programs fuse, and one on what would make them whole.

    There are none where the format has no such programs.

    Args:
        config: its rules and exclude may give the layers of a unit different options.
        layers: that are quantized.
        skipped: that stay as they are.
    """
    programs = " and ".join(refusing_mixed_units(config.format))
    left = [layer for layer in skipped if fused_unit(layer.name) != layer.name]
    mixed = isinstance(config, MixedConfig) and bool(config.rules)
    # The tens of thousands of layers of a mixture of experts are looked at only where they can differ.
    if not programs or not (left or mixed):
        return ()
    names = config.per_layer_options() if isinstance(config, MixedConfig) else ()
    # Unit -> options -> the last parts of the names of the layers that have them.
    units: dict[str, dict[Options, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    recipes: dict[str, Options] = {}
    for layer in chain(layers, left):
        unit = fused_unit(layer.name)
        if unit == layer.name:
            continue
        own = config.of(layer.name)
        options = None if layer.skipped else tuple((name, getattr(own, name)) for name in names)
        recipes[layer.name] = options
        units[unit][options][layer.name.rpartition(".")[2]] = None
    # Mixture -> the modules that have it.
    mixtures: dict[str, list[str]] = defaultdict(list)
    for unit, parts in units.items():
        if len(parts) > 1:
            module, _, joined = unit.rpartition(".")
            mixtures[_describe(parts)].append(module if joined in FUSED.values() else unit)
    notes = [
        f"{mixture} in {where[0]}{f' and {len(where) - 1} more' if where[1:] else ''}: "
        f"{programs} fuse them and refuse a mixed unit"
        for mixture, where in mixtures.items()
    ]
    if len(notes) > _MOST_NOTES:
        more = len(notes) - _MOST_NOTES + 1
        notes = [*notes[: _MOST_NOTES - 1], f"{more} other mixtures of layers that {programs} fuse"]
    return (*notes, f"to make whole what {programs} fuse: {advice_on_units(recipes)}") if notes else ()


def _describe(parts: dict[Options, dict[str, None]]) -> str:
    """Describe what differs within a unit: "q_proj 3 bits, k_proj and v_proj 4 bits"."""
    quantized = [dict(options) for options in parts if options is not None]
    differing = [name for name in quantized[0] if len({own[name] for own in quantized}) > 1] if quantized else []

    def described(options: Options) -> str:
        if options is None:
            return "not quantized"
        own = dict(options)
        shown = differing or [name for name in own if name == "bits"]
        return ", ".join(f"{own[name]} bits" if name == "bits" else f"{name} {own[name]}" for name in shown)

    return ", ".join(f"{' and '.join(names)} {described(options) or 'quantized'}" for options, names in parts.items())
