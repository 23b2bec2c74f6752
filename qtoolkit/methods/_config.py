"""What every method's config is: a frozen dataclass whose fields carry their own help, choices and unit."""

import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

from qtoolkit.errors import ConfigError
from qtoolkit.requests import option


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of all configs. A subclass names its method and adds fields made by `option`.

    Attributes:
        method: the method's name; also the name of its file.
        exclude: modules that stay as they are; a pattern matches a module's full name or the end of it.

    Raises:
        ConfigError: an option that there is not, a value of the wrong type, or not among the field's choices.
    """

    method: ClassVar[str]
    # The name of a format of `qtoolkit.formats`, in which its codes are stored.
    format: ClassVar[str] = "native"
    schema_version: ClassVar[int] = 1

    exclude: tuple[str, ...] = option(
        ("lm_head",), help="modules that stay as they are, by name, by the end of the name, or by pattern (*.o_proj)"
    )

    def __new__(cls, **values: Any) -> Self:
        """A config with these field values; an option that there is not is refused as in `from_dict`."""
        _refuse_unknown(cls, values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            if name in _field_names(type(self)):
                object.__setattr__(self, name, self._checked(name, hint))

    def _checked(self, name: str, hint: Any) -> Any:
        value = _coerce(hint, getattr(self, name))
        choices = next(field.metadata.get("choices") for field in fields(self) if field.name == name)
        if choices is not None and value not in choices:
            allowed = ", ".join(map(repr, choices))
            raise ConfigError(f"{type(self).__name__}: {name} must be one of {allowed}, got {value!r}")
        if not _is_instance(hint, value):
            raise ConfigError(f"{type(self).__name__}: {name} must be {_describe(hint)}, got {value!r}")
        return value

    def excludes(self, module_name: str) -> bool:
        """Whether a pattern of `exclude` matches the module's full name or the end of it."""
        return any(matches(pattern, module_name) for pattern in self.exclude)

    def of(self, layer: str) -> Self:
        """Return the config that counts for the layer of this name: this one, where all layers have the same."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these field values.

        Raises:
            ConfigError: a key that is no field, or a value that the field cannot have.
        """
        return cls(**values)


def as_call(config: MethodConfig) -> str:
    """A config as it is written: `NF4(double_quant=False)`, what is as by default left out."""
    usual = type(config)().to_dict()
    changed = ", ".join(f"{name}={value!r}" for name, value in config.to_dict().items() if value != usual[name])
    return f"{type(config).__name__}({changed})"


def matches(pattern: str, name: str) -> bool:
    """Whether an fnmatch pattern matches a module's full name, or the end of it after a dot."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _refuse_unknown(config_class: type[MethodConfig], values: Mapping[str, Any]) -> None:
    unknown = sorted(set(values) - _field_names(config_class), key=str)
    if not unknown:
        return
    allowed = ", ".join(field.name for field in fields(config_class))
    message = f"{config_class.__name__} has no option {unknown[0]!r}: its options are {allowed}"
    if unknown[0] in PER_LAYER_OPTIONS:
        message += "; it quantizes all layers alike: exclude leaves some as they are, GPTQ, AbsMax and ZeroPoint mix"
    raise ConfigError(message)


# What a `MixedConfig` has beside a method's own options.
PER_LAYER_OPTIONS = ("rules", "target_bits", "target_size")


def _field_names(config_class: type[MethodConfig]) -> set[str]:
    return {field.name for field in fields(config_class)}


def _coerce(hint: Any, value: Any) -> Any:
    """Lists become tuples and ints become floats where the field wants those; nothing else changes."""
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    if float in (hint, *typing.get_args(hint)) and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):  # left an int, it is refused as no number that a float can be
            return float(value)
    return value


def _is_instance(hint: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(_is_instance(item, value) for item in arguments)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is_instance(arguments[0], key) and _is_instance(arguments[1], item) for key, item in value.items()
        )
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_instance(arguments[0], item) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return value is None if hint is types.NoneType else isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return "a list of names"
    if typing.get_origin(hint) is Mapping:
        return "patterns of names, each with options"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_describe(item) for item in typing.get_args(hint))
    return {bool: "true or false", types.NoneType: "None", int: "a whole number", float: "a number", str: "a text"}.get(
        hint, str(hint)
    )
