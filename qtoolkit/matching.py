"""Match the names of layers with regular expressions that somebody's config brings, in bounded time.

Python's own `re` has no bound: "((a)+)+!" takes years on a name of thirty letters.
"""

import re
from functools import lru_cache

import regex

from qtoolkit.errors import CheckpointError, printable

# Seconds for one name. What people write takes microseconds.
_TIME = 0.5


def matches(pattern: str, name: str) -> bool:
    """Check whether a regular expression matches from the start of a name, as `re.match` does.

    Raises:
        re.error: it is no regular expression of Python's.
        CheckpointError: it takes longer than any that names layers.
    """
    try:
        return _compiled(pattern).match(name, timeout=_TIME) is not None
    except TimeoutError as error:
        raise CheckpointError(
            f"the config names layers by {printable(pattern)[:60]!r}, a regular expression that takes over {_TIME} s "
            f"for {printable(name)[:60]!r}: name the layers in config.json, or take another copy of the model"
        ) from error


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    """Compile what `re`, with which others read a config, compiles too."""
    re.compile(pattern)
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise re.error(str(error)) from error
