"""Derive the options of a magic's line from the fields of a request or of a method's config."""

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from functools import partial
from typing import Any

from qtoolkit.checkpoints.hub_names import BASE_MODEL_RELATIONS, HUB_TEXTS
from qtoolkit.errors import ConfigError
from qtoolkit.methods import MethodConfig
from qtoolkit.planning.machines import PROFILES
from qtoolkit.readers import READER_NAMES
from qtoolkit.requests import Request, arguments_of

# Keyword of a verb -> why neither a line nor a panel has it.
ONLY_IN_PYTHON = {
    "token": "lines and fields are kept in the notebook, and a token must be kept nowhere",
    "tokenizer": "an object, which Python alone can give",
    "on_progress": "magics and panels draw the progress themselves",
    "on_check": "magics and panels show the checks themselves",
}
_RARE = "rarely changed: copy the call that the panel shows, and add it"
# Keyword of a verb -> why its panel has no field for it, though a line has it.
NOT_IN_A_PANEL = {
    "revision": "it is written behind the model's name: org/name@revision",
    "resume": "a panel always goes on with what was kept",
    "sizes": "a frontier has no panel: it takes hours, and belongs into a cell that can be run again",
    "executor": "Workers of two panels says it in another way; elsewhere, a variable of a cell can hold it",
    "output": "of a comparison it is a folder in the user's cache, and a plan writes nothing",
    "base": "the one that the saved folder names",
    **dict.fromkeys(
        ("resume_repo", "retries", "seq_len", "stride", "noise_floor", "speed", "context", "batch_size", "workers"),
        _RARE,
    ),
    "frontier": _RARE,
}
# Keyword of a verb -> how it is written on a line, if not as its name.
_OTHER_FLAGS = {
    "for_": ("--for",),
    "resume": ("--resume", "--no-resume"),
    "speed": ("--no-speed",),
    "private": ("--public",),
    "create_pr": ("--pr",),
    "prompts": ("--prompt",),
    "sizes": ("--size",),
}
_TEXTS = (*HUB_TEXTS, "self")
# Keyword of a verb or field of a config -> values that completion offers.
_VALUES = {
    "device": ("auto", "cpu", "cuda"),
    "for_": READER_NAMES,
    "base_model_relation": BASE_MODEL_RELATIONS,
    "machine": tuple(PROFILES),
    "text": _TEXTS,
    "calibration": _TEXTS,
}


@dataclass(frozen=True)
class LineOption:
    """An option of a magic's line.

    Attributes:
        name: the field that it sets.
        flags: how it is written: "--device"; a switch may have two, "--resume" and "--no-resume".
        help: what it is for, and its default.
        metavar: what its value is called; empty for a switch.
        sets: what a switch with one flag sets.
        several: whether it may be given several times.
        in_variable: whether its value may be the name of a variable, because the verb takes an object.
        choices: values that completion offers.
        takes_path: whether its value may be the path of a file or a folder.
        default: the value that it has when it is not given, as text; empty for none.
        read: makes a value of the text that was given, or of the list of texts if there may be several.
    """

    name: str
    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    sets: bool = True
    several: bool = False
    in_variable: bool = False
    choices: Sequence[str] = ()
    takes_path: bool = False
    default: str = ""
    read: Callable[[Any], Any] = lambda text: text


def request_options(request: type[Request], *names: str) -> tuple[LineOption, ...]:
    """Return the options of a verb that a line can have, all or those of these names, in the verb's order."""
    wanted = [field for field in arguments_of(request) if field.kw_only and field.name not in ONLY_IN_PYTHON]
    return tuple(_request_option(field) for field in wanted if not names or field.name in names)


def _request_option(field: Field[Any]) -> LineOption:
    flags = _OTHER_FLAGS.get(field.name, (flag_of(field.name),))
    text = field.metadata["help"]
    empty = field.metadata["empty"]
    if is_switch(field.type):
        if len(flags) == 2:
            text = f"{text}; otherwise {empty} (default: on)"
        elif field.default:
            text = empty
        return LineOption(field.name, flags, text, sets=not field.default)
    kinds = _kinds(field.type)
    several = typing.get_origin(field.type) is Sequence
    in_variable = not several and (field.metadata["metavar"] == "MODEL" or not {str, int}.intersection(kinds))
    more = "; may be given several times" if several else "; a variable may hold it" if in_variable else ""
    option = LineOption(
        field.name,
        flags,
        f"{text}{more} (default: {empty or _as_text(field.default)})",
        metavar=field.metadata["metavar"],
        several=several,
        in_variable=in_variable,
        choices=_VALUES.get(field.name, ()),
        takes_path=field.type is Any or field.metadata["metavar"] == "DIR",
        default=_default_text(field.default),
    )
    if int not in kinds or str in kinds:
        return option
    return replace(option, read=partial(_read_count, flags[0], field.metadata["unit"], field.metadata["least"]))


def config_options(config: type[MethodConfig]) -> tuple[LineOption, ...]:
    """Return the options of a method's config, in the order of its fields, without those of `tables`."""
    hints = option_hints(config)
    return tuple(_config_option(field, hints[field.name]) for field in fields(config) if field.name in hints)


def _config_option(field: Field[Any], hint: Any) -> LineOption:
    choices = [_as_text(choice) for choice in field.metadata.get("choices") or ()]
    parts = [field.metadata.get("help", ""), f"one of {', '.join(choices)}" if choices else ""]
    parts.append(f"in {field.metadata['unit']}" if field.metadata.get("unit") else "")
    text = f"{'; '.join(filter(None, parts))} (default: {_as_text(field.default)})"
    if is_switch(hint):
        return LineOption(field.name, (flag_of(field.name), flag_of(f"no_{field.name}")), text)
    return LineOption(
        field.name,
        (flag_of(field.name),),
        text,
        metavar="A,B" if is_list(hint) else "VALUE",
        several=is_list(hint),
        choices=choices or _VALUES.get(field.name, ()),
        takes_path=field.name == "calibration" or "is_file" in field.metadata,
        default=_default_text(field.default),
        read=partial(read_option, hint),
    )


def _default_text(value: Any) -> str:
    """Write a default as it is written on a line; empty for what is no number and no text."""
    return str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""


def option_hints(config: type[MethodConfig]) -> dict[str, Any]:
    """Return field -> type of a config, in the order of its fields, without those of `tables`."""
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config) if field.name not in tables(config)}


def tables(config: type[MethodConfig]) -> list[str]:
    """Return the fields that map names to options: no line can hold them, the body of a `%%quantize` cell can."""
    hints = typing.get_type_hints(config)
    return [field.name for field in fields(config) if typing.get_origin(hints[field.name]) is Mapping]


def flag_of(name: str) -> str:
    """Write a field as an option of a line: `group_size` -> `--group-size`."""
    return "--" + name.replace("_", "-")


def is_switch(hint: Any) -> bool:
    """Check whether an option of this type takes no value: `--double-quant`, `--no-double-quant`."""
    return bool in _kinds(hint)


def is_list(hint: Any) -> bool:
    """Check whether an option of this type takes several values: `--exclude a,b`."""
    return _item(hint) is not None


def read_option(hint: Any, given: Any) -> Any:
    """Read a method's option as a value of its field's type.

    Args:
        hint: the field's type.
        given: its text; a list of texts for a field that takes several values, which may have commas too.
    """
    item = _item(hint)
    if item:
        return tuple(_read(item, part.strip()) for text in given for part in text.split(",") if part.strip())
    return _read(hint, given) if isinstance(given, str) else given


def _read(hint: Any, text: str) -> Any:
    """Read text as a number or None if the type allows it; otherwise it stays text, which the config will refuse."""
    for kind in _kinds(hint):
        if kind is types.NoneType and text.lower() == "none":
            return None
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _read_count(flag: str, unit: str, least: int | None, text: str) -> int:
    """Read a verb's whole number.

    Raises:
        ConfigError: the text is none, or the number is too small.
    """
    if not text.isdecimal() or int(text) < (1 if least is None else least):
        raise ConfigError(f"{flag} must be a number{f' of {unit}' if unit else ''}, got {text!r}")
    return int(text)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types that a hint allows: `int | None` -> (int, NoneType)."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _item(hint: Any) -> Any:
    """Return the type of a tuple's items; None if the hint is no tuple."""
    return next((typing.get_args(kind)[0] for kind in _kinds(hint) if typing.get_origin(kind) is tuple), None)


def _as_text(value: Any) -> str:
    """Write a value as it is written on a line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
