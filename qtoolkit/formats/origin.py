"""Read which method chose the codes of a checkpoint whose format does not tell it."""

from collections.abc import Callable, Mapping
from typing import Any

from qtoolkit.errors import CheckpointError

# The key of a `quantization_config` under which the method and its options stand.
ORIGIN = "qtoolkit"


def read_origin(values: Mapping[str, Any], stored_bits: Callable[[], set[int]]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and options of the method that a `quantization_config` names; None where it names none.

    Args:
        values: the `quantization_config`, which anybody may have written.
        stored_bits: returns the bits that the rest of it gives to layers.

    Raises:
        CheckpointError: it names a method that gives no such bits, or is no object; also what `stored_bits` raises.
    """
    if ORIGIN not in values:
        return None
    origin = values[ORIGIN]
    method, options = (origin.get("method"), origin.get("options")) if isinstance(origin, dict) else (None, None)
    if not (isinstance(method, str) and isinstance(options, dict)):
        raise CheckpointError(f"the config has {ORIGIN} {origin!r:.40}: it must be an object with method and options")
    rules = options.get("rules")
    own = [options, *(rules.values() if isinstance(rules, dict) else ())]
    given = {one["bits"] for one in own if isinstance(one, dict) and isinstance(one.get("bits"), int)}
    given |= {one for one in (options.get("embeddings"),) if given and isinstance(one, int)}
    stored = stored_bits()
    if given and not stored <= given:
        raise CheckpointError(
            f"the config says {ORIGIN} with {', '.join(map(str, sorted(given)))} bits, and its schemes have "
            f"{', '.join(map(str, sorted(stored)))}: get it again"
        )
    return method, options
