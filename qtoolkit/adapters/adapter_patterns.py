"""Try the regular expressions of an adapter's config before peft does: one may take forever."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_SECONDS = 5
_TRY = "import json, re, sys; pattern, names = json.load(sys.stdin); [re.fullmatch(pattern, name) for name in names]"


def pattern_problem(values: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return what is wrong with a regular expression of an adapter's config, in one clause; empty for nothing.

    It is tried in another process, since nothing ends `re` within one.

    Args:
        values: entries of the config.
        names: of a model's modules.
    """
    given = list(names)
    for key, pattern in _patterns(values):
        try:
            re.compile(pattern)
            command = [sys.executable, "-I", "-S", "-c", _TRY]
            text = json.dumps([pattern, given]).encode()
            subprocess.run(command, input=text, timeout=_SECONDS, check=True)  # noqa: S603  # this Python
        except subprocess.TimeoutExpired:
            return f"{key} is a regular expression that takes more than {_SECONDS} s"
        except (re.error, RecursionError, OverflowError) as error:
            return f"{key} is no regular expression: {error}"
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{key} cannot be tried: {error}"
    return ""


def _patterns(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the regular expressions that peft matches names with, and the entries where they stand; no plain names."""
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = values.get(key)
        # peft takes lists of modules as names.
        found = value if isinstance(value, list) and key == "layers_pattern" else [value]
        for text in found:
            if isinstance(text, str) and not re.fullmatch(r"[\w.-]*", text):
                yield key, text if key != "layers_pattern" else rf".*\.{text}\.(\d+)\..*"
