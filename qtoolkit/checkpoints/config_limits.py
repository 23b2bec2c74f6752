"""Check the numbers, sizes and code that a config names, before transformers builds anything from them.

transformers makes a list entry, a module or a buffer for each layer, expert, label or element that a config names, and
loads kernels that it names from the Hub. So a config is compared with limits that no model comes near, and with the
shapes of the weights, while it is nothing but JSON.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qtoolkit.errors import CheckpointError

# Patterns of keys, and the largest number that each may have. Published models have up to 315 layers, 16,384 experts
# (Doge's are rows of an embedding), 21,843 labels, and millions of words.
_LIMITS = (
    (re.compile(r"(layers?|blocks)$"), 512),
    (re.compile(r"experts$"), 100_000),
    (re.compile(r"(labels|codebooks)$"), 100_000),
    (re.compile(r"(size|dims?|rank|embd|inner|hidden|width|channels|vocab|words)$|^d_|_dim_"), 10_000_000),
    (re.compile(r"^(num|n)_(?!positions|ctx)|(heads|groups)$"), 1_000_000),
)
# A config for transformers has some hundred values; the longest part of a real one is a list of quantized layers.
MAX_VALUES, MAX_DEPTH = 300_000, 40
# Parts of a config that no module of a model is made from.
_OTHER_PARTS = ("quantization_config", "task_specific_params", "id2label", "label2id", "auto_map")
# The implementations that are transformers' own; others it fetches from the Hub as kernels, or needs a package for.
_IMPLEMENTATIONS = ("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
_IMPLEMENTATION_KEY = re.compile(r"_?(attn|experts)_implementation(_internal)?")
# Keys that name code of the repository, kernels, or another config file to read instead.
_CODE_KEYS = ("auto_map", "configuration_files", "kernel_config", "use_kernels", "custom_generate", "trust_remote_code")
_ADVICE = "get the model's own config"


def check_numbers(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a config that names more of something than any model has, before anything is made from it.

    Args:
        name: what the config is called in the error.
        values: the values of its file.

    Raises:
        CheckpointError: a number beyond its limit, too many values, or values that are nested too deep.
    """
    for key, value in _numbers(name, values):
        limit = next((most for pattern, most in _LIMITS if pattern.search(key)), None)
        # In this form, NaN does not pass.
        if limit is not None and not -limit <= value <= limit:
            raise CheckpointError(f"{name} has {key} {value!r:.20}, and no model has more than {limit}: {_ADVICE}")


def _numbers(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Yield every number of a config and of the configs in it, with its key; numbers in a list have the list's key."""
    count = 0
    left: list[tuple[str, Any, int]] = [("", values, 0)]
    while left:
        key, value, depth = left.pop()
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            what = f"more than {MAX_VALUES} values" if count > MAX_VALUES else f"values in {depth} others"
            raise CheckpointError(f"{name} has {what}, and no model's config has: {_ADVICE}")
        if isinstance(value, Mapping):
            other = key in _OTHER_PARTS
            left.extend((key if other else str(inner), item, depth + 1) for inner, item in value.items())
        elif isinstance(value, list):
            left.extend((key, item, depth + 1) for item in value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


def check_against_weights(name: str, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a config that cannot be that of these weights, by their names and shapes alone.

    This finds what would make a model larger than its weights; other differences are found when the model is built.

    Args:
        name: what the model is called in the error.
        values: the values of its file.
        shapes: the shapes of the weights by name.

    Raises:
        CheckpointError: more layers than the weights have, or a larger size than any of them has.
    """
    numbers = [int(part) for key in shapes for part in key.split(".") if part.isdecimal() and len(part) < 9]
    num_layers = max(numbers, default=-1) + 1
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    advice = "get the config and the weights of one model"
    text = values.get("text_config")
    for part in (values, text if isinstance(text, Mapping) else {}):
        # HRM counts how often its layers run, and has the number of them beside that.
        counts = {value for key, value in part.items() if "layers" in key and type(value) is int}
        for key in ("num_hidden_layers", "n_layer", "num_layers"):
            if num_layers and num_layers not in counts and _exceeds(part.get(key), num_layers):
                what = f"{num_layers} by its weights"
                raise CheckpointError(f"{name} has {key} {part[key]} by its config, and {what}: {advice}")
        for key in ("vocab_size", "hidden_size", "n_embd", "d_model"):
            if largest and _exceeds(part.get(key), largest):
                what = f"no weight has more than {largest} rows or columns"
                raise CheckpointError(f"{name} has {key} {part[key]} by its config, and {what}: {advice}")


def _exceeds(value: Any, most: int) -> bool:
    """Check whether a value is an integer above a limit; bools and other types are not."""
    return type(value) is int and value > most


def without_code(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Leave out of a config what makes transformers fetch or run code.

    Args:
        values: the values of its file; not changed.

    Returns:
        The config's other values, and a text "KEY VALUE" for each that was left out.
    """
    safe: dict[str, Any] = {}
    dropped: list[str] = []
    for key, value in values.items():
        if key in _CODE_KEYS or (_IMPLEMENTATION_KEY.fullmatch(key) and not _is_plain(value)):
            dropped.append(f"{key} {value!r:.60}")
        elif isinstance(value, Mapping) and key not in _OTHER_PARTS:
            safe[key], inside = without_code(value)
            dropped += inside
        else:
            safe[key] = value
    return safe, dropped


def _is_plain(implementation: Any) -> bool:
    """Check whether an attention or experts implementation is one that transformers has itself."""
    return implementation is None or (isinstance(implementation, str) and implementation in _IMPLEMENTATIONS)
