"""Read values of a config of which each layer may have its own: Gemma 4 has heads of two sizes."""

from typing import Any


def largest(config: Any, name: str) -> Any:
    """Return a number of a config; the largest where layers differ in it; None where it has none.

    transformers refuses to read a value from a config whose layers differ in it (`per_layer_config`).

    Args:
        config: transformers' config of a language model.
        name: of the number; its value may be a list, with one for each layer.
    """
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else (config,)
    values = [getattr(one, name, None) for one in layers]
    listed = (value if isinstance(value, list | tuple) else [value] for value in values)
    numbers = [number for several in listed for number in several if number is not None]
    return max(numbers, default=None)
