"""A method's options, made from its config's fields: their types, how they are written, and text read as a value."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from qtoolkit.methods import MethodConfig


def option_hints(config: type[MethodConfig]) -> dict[str, Any]:
    """Field -> type of a config, in the order in which the class has them, but for those of `tables`."""
    return {name: hint for name, hint in _all_hints(config).items() if not _is_table(hint)}


def tables(config: type[MethodConfig]) -> list[str]:
    """The fields that no line can hold, since they map names to options: tables in the body of a `%%quantize` cell."""
    return [name for name, hint in _all_hints(config).items() if _is_table(hint)]


def _all_hints(config: type[MethodConfig]) -> dict[str, Any]:
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def _is_table(hint: Any) -> bool:
    return typing.get_origin(hint) is Mapping


def option_flags(config: type[MethodConfig], *names: str) -> list[str]:
    """The options of a config as they are written on a line, all or those of these fields; a switch has two."""
    flags = []
    for name, hint in option_hints(config).items():
        if not names or name in names:
            flags.append(flag_of(name))
            flags += [flag_of(f"no_{name}")] if is_switch(hint) else []
    return flags


def is_switch(hint: Any) -> bool:
    """Whether an option of this type takes no value: `--double-quant`, `--no-double-quant`."""
    return bool in _kinds(hint)


def is_list(hint: Any) -> bool:
    """Whether an option of this type takes several values: `--exclude a,b`."""
    return _item(hint) is not None


def flag_of(name: str) -> str:
    """A field's option as it is written on a line: `group_size` -> `--group-size`."""
    return "--" + name.replace("_", "-")


def read_option(hint: Any, given: Any) -> Any:
    """What a person gave, as the field's type.

    Args:
        hint: the field's type.
        given: its text; a list of texts for a field that takes several values, which may have commas too.
    """
    item = _item(hint)
    if item:
        return tuple(_read(item, part.strip()) for text in given for part in text.split(",") if part.strip())
    return _read(hint, given) if isinstance(given, str) else given


def _read(hint: Any, text: str) -> Any:
    """Text as a number or None where the type allows it; otherwise it stays text, and the config says what it wants."""
    for kind in _kinds(hint):
        if kind is types.NoneType and text.lower() == "none":
            return None
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows: `int | None` -> (int, NoneType)."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _item(hint: Any) -> Any:
    """The type of the items when a hint is a tuple, otherwise None."""
    return next((typing.get_args(kind)[0] for kind in _kinds(hint) if typing.get_origin(kind) is tuple), None)
