"""Read mixtures of texts, each with its share, {"wikitext2": 0.5, "chat.jsonl": 0.5}, and share out samples."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from qtoolkit.errors import ConfigError

# Shares are added up.
_LARGEST = 1e9
_PART = re.compile(r"\s*(.+?)\s*=\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")


def read_mixture(value: Any) -> Any:
    """Return a mixture that is written as text as source -> share; any other value as it is.

    Example:
        >>> read_mixture("wikitext2=1, chat.jsonl=3")
        {'wikitext2': 1.0, 'chat.jsonl': 3.0}

    Raises:
        ConfigError: it names a source twice.
    """
    if not isinstance(value, str) or "\n" in value or "," not in value:
        return value
    parts = [_PART.fullmatch(part) for part in value.split(",")]
    if not all(parts):
        return value
    shares: dict[str, float] = {}
    for source, share in (part.groups() for part in parts if part):
        if source in shares:
            raise ConfigError(f"a mixture names each source once, got {source!r:.60} twice: add up its shares")
        shares[source] = float(share)
    return shares


def write_mixture(shares: Iterable[tuple[str, float]]) -> str:
    """Write sources with their shares as `read_mixture` reads them."""
    return ",".join(f"{source}={share:g}" for source, share in shares)


def check_mixture(shares: Mapping[Any, Any], option: str) -> None:
    """Refuse shares that are no positive numbers.

    Raises:
        ConfigError: fewer than two sources, one without a name, a share that is no positive number; the output of a
            tokenizer.
    """
    if "input_ids" in shares:
        raise ConfigError(f"{option}: token ids are given as a list or an array: give what stands under 'input_ids'")
    if len(shares) < 2:
        raise ConfigError(f"{option}: a mixture has two sources or more, got {len(shares)}: give the source itself")
    for source, share in shares.items():
        if not isinstance(source, str):
            raise ConfigError(
                f"{option}: a mixture names its sources, got {type(source).__name__}: give names or files"
            )
        if source == "self":
            raise ConfigError(f"{option}: the model writes all of its text or none: leave 'self' out of the mixture")
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or not 0 < share <= _LARGEST:
            raise ConfigError(
                f"{option}: the share of {source!r:.60} must be a number from above 0 to {_LARGEST:g}, got "
                f"{share!r:.40}"
            )


def counts_of(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Share out samples by largest remainder (Hamilton's method), the first source first where remainders are equal.

    Example: 10 samples at shares 1, 1 and 1 are 3.33 each: 3 each, and the one that is left goes to the first.

    Args:
        shares: source -> share; they need not add up to 1.
        total: samples to share out.

    Returns:
        source -> samples, which add up to `total`.
    """
    whole = math.fsum(shares.values())
    exact = {source: total * share / whole for source, share in shares.items()}
    counts = {source: int(number) for source, number in exact.items()}
    left = total - sum(counts.values())
    for source in sorted(exact, key=lambda source: counts[source] - exact[source])[:left]:
        counts[source] += 1
    return counts
