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


def heads_of(config: Any) -> tuple[int, ...]:
    """Return the heads of queries, and of keys and values, of a config; empty where it does not tell.

    Args:
        config: transformers' config of a language model, or the values of a `config.json`.

    Example:
        >>> heads_of({"num_attention_heads": 32, "num_key_value_heads": 8}), heads_of({"num_attention_heads": "many"})
        ((32, 8), ())
    """
    names = ("num_attention_heads", "num_key_value_heads")
    if isinstance(config, dict):
        nested = config.get("text_config")
        values = nested if isinstance(nested, dict) else config
        queries, keys = (values.get(name) for name in names)
    else:
        queries, keys = (largest(config, name) for name in names)
    both = (queries, queries if keys is None else keys)
    heads = tuple(one for one in both if type(one) is int and one > 0)
    return heads if len(heads) == len(both) else ()
