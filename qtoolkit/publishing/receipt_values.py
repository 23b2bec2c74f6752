"""Refuse receipts that no job wrote: a receipt comes with a folder, and anybody may have written it."""

import re
from collections.abc import Iterator
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.files import is_shallow
from qtoolkit.publishing.behaviour import PROBE_TOKENS
from qtoolkit.records import Probe, Receipt

# No disk holds as many bytes, and no model as many weights.
_MOST = 2**63
# Logits are measured at two positions of a few dozen tokens, at the largest few dozen ids.
_MOST_IN_PROBE = 32 * PROBE_TOKENS


def refuse_odd_values(values: Any) -> None:
    """Refuse JSON with numbers or texts that nothing could be done with.

    Raises:
        ConfigError: it is nested too deep, holds a number that is no size of anything, or a text that is none.
    """
    if not is_shallow([values]):
        raise ConfigError("it is nested too deep")
    for value in _leaves(values):
        # Not `>= _MOST`, which is false for NaN.
        if isinstance(value, int | float) and not abs(value) < _MOST:
            raise ConfigError(f"it holds the number {value!r:.20}")
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(f"it holds {value!r:.60}, which is no text")


def refuse_odd_figures(receipt: Receipt) -> None:
    """Refuse a receipt whose figures no job measures.

    Raises:
        ConfigError: a size is negative, a hash is none, or the logits do not belong together.
    """
    for name, entry in receipt.files.items():
        if entry.size < 0 or not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ConfigError(f"its file {name!r:.60} has {entry.size} bytes and the hash {entry.sha256!r:.70}")
    counts = [("num_layers", receipt.num_layers), ("num_quantized", receipt.num_quantized)]
    sizes = [*receipt.dtypes.items(), *receipt.skipped.items(), *receipt.memory.to_dict().items()]
    for name, count in [*counts, *sizes]:
        if isinstance(count, int) and count < 0:
            raise ConfigError(f"its {name!r:.60} is {count}")
    if receipt.probe is not None and not _is_measured(receipt.probe):
        raise ConfigError("its logits do not belong together")


def _is_measured(probe: Probe) -> bool:
    """Check that a probe has logits at ids for some of its tokens, as `behaviour.probe` measures them."""
    positions = len(probe.top_ids)
    return (
        1 <= positions == len(probe.top_logits) == len(probe.std) <= len(probe.token_ids)
        and 2 <= len(probe.token_ids) <= _MOST_IN_PROBE
        and all(
            1 <= len(ids) == len(logits) <= _MOST_IN_PROBE
            for ids, logits in zip(probe.top_ids, probe.top_logits, strict=True)
        )
        and min(*probe.token_ids, *(token for ids in probe.top_ids for token in ids)) >= 0
        and min(probe.std) >= 0
    )


def _leaves(values: Any) -> Iterator[Any]:
    """Yield every value in nested dicts and lists that is neither, and every key."""
    left = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        else:
            yield value
