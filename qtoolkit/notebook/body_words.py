"""Complete the body of a `%%quantize`, `%%qcompare` or `%%qfrontier` cell: keys, and values as TOML writes them."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from qtoolkit.errors import QToolkitError
from qtoolkit.methods import MethodConfig, available_methods, config_class
from qtoolkit.notebook.body import DEFAULT_METHOD
from qtoolkit.notebook.lines import MAGICS
from qtoolkit.notebook.offered_words import Offered
from qtoolkit.notebook.options import config_options, is_switch, option_hints, tables

_KEY = re.compile(r"\s*([\w\[-]*)$")
_VALUE = re.compile(r"\s*([\w-]+)\s*=\s*(\"?)([^\"\[]*)$")
_HEADER = re.compile(r"\s*\[")
_GIVEN = re.compile(r"\s*([\w-]+)\s*=\s*\"?([^\"]*)")


def body_words(magic: str, lines: Sequence[str], row: int, column: int) -> Offered | None:
    """Return the words that may stand at the cursor; None where nothing is known, as in the middle of a list.

    Args:
        magic: the magic's name without `%%`.
        lines: the body.
        row, column: where in it the cursor is, from 0.
    """
    before, after = lines[row][:column], lines[row][column:]
    starts = [number for number in range(row) if _HEADER.match(lines[number])]
    header = lines[starts[-1]].strip() if starts else ""
    begin = starts[-1] + 1 if starts else 0
    end = next((number for number in range(row + 1, len(lines)) if _HEADER.match(lines[number])), len(lines))
    given = _given(lines[begin:end])
    in_configs = header == "[[configs]]"
    if MAGICS[magic].has_method or in_configs:
        top = given if in_configs else _given(lines)
        config = _config(top.get("method", DEFAULT_METHOD))
    else:
        config = None
    value = _VALUE.match(before)
    if value is not None:
        return _values(config, value[1], quoted=bool(value[2]), typed=value[3], closed=after.startswith('"'))
    key = _KEY.match(before)
    if key is None:
        return None
    if config is None:
        keys = ["[[configs]]", *(["prompts = "] if magic == "qcompare" else [])]
    elif header and not in_configs:
        keys = [f"{field.name} = " for field in fields(config) if field.metadata.get("per_layer")]
    else:
        own = [option.name for option in config_options(config)]
        keys = [f"{name} = " for name in ("method", *own)] + [f'[{table}."PATTERN"]' for table in tables(config)]
    return Offered(key[1], [name for name in keys if name.removesuffix(" = ") not in given], "option")


def _config(method: str) -> type[MethodConfig]:
    """Return the config class of a method, or of the default one where the name is not complete."""
    try:
        return config_class(method)
    except QToolkitError:
        return config_class(DEFAULT_METHOD)


def _values(config: type[MethodConfig] | None, key: str, *, quoted: bool, typed: str, closed: bool) -> Offered | None:
    """Return the values of a key; `quoted` and `closed` tell whether quotes stand before and behind them."""
    if config is None:
        return None
    if key == "method":
        values: Sequence[Any] = available_methods()
    elif (hint := option_hints(config).get(key)) is None:
        return None
    elif is_switch(hint):
        values = (True, False)
    else:
        choices = next((field.metadata.get("choices") for field in fields(config) if field.name == key), None)
        values = choices or next(option.choices for option in config_options(config) if option.name == key)
    words = [json.dumps(value) for value in values if value is not None]
    if quoted:
        words = [word[1:-1] if closed else word[1:] for word in words if word.startswith('"')]
    return Offered(typed, words)


def _given(lines: Sequence[str]) -> dict[str, str]:
    """Return the values that lines give their keys, as written."""
    return {match[1]: match[2] for line in lines if (match := _GIVEN.match(line))}
