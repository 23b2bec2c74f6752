"""The base of all configs: a frozen dataclass whose fields carry their own help, choices and unit."""

import os
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from qtoolkit.errors import ConfigError, did_you_mean
from qtoolkit.methods.module_patterns import NamePatterns
from qtoolkit.requests import option


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of all configs. A subclass names its method and adds fields made by `option`.

    Attributes:
        method: the method's name.
        format: the format of `qtoolkit.formats` that stores its codes.
        input_type: what the inputs of its layers are rounded to, "float8" or "int8"; empty where they are not.
        exclude: modules that are not quantized; a pattern matches a module's full name or the end of it.
        include: parts beside the language model that are quantized too, by patterns of their modules' names.

    Raises:
        ConfigError: an unknown option, a value of the wrong type, or one that is not among the field's choices.
    """

    method: ClassVar[str]
    format: ClassVar[str] = "native"
    input_type: ClassVar[str] = ""

    exclude: tuple[str, ...] = option(
        ("lm_head",), help="modules that stay as they are, by name, by the end of the name, or by pattern (*.o_proj)"
    )

    include: tuple[str, ...] | None = option(
        None,
        help="parts beside the language model that are quantized too, such as a tower of images, by pattern (*visual*)",
        empty="none",
        absent=None,
    )

    def __new__(cls, **values: Any) -> Self:
        """Refuse unknown options with the message of `from_dict`, before the dataclass sees them."""
        _refuse_unknown(cls, values)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in fields(self):
            hint = hints[field.name]
            value = _coerce(hint, getattr(self, field.name))
            if field.name in self.files() and isinstance(value, os.PathLike):
                value = os.fspath(value)
            choices = field.metadata.get("choices")
            if choices is not None and value not in choices:
                allowed = ", ".join(map(repr, choices))
                names = [one for one in choices if isinstance(one, str)]
                near = did_you_mean(value, names).rstrip() if isinstance(value, str) else ""
                what = f"{type(self).__name__}: {field.name} must be one of {allowed}, got {value!r}"
                raise ConfigError(f"{what}: {near}" if near else what)
            if not _is_instance(hint, value):
                raise ConfigError(f"{type(self).__name__}: {field.name} must be {_describe(hint)}, got {value!r}")
            least = field.metadata.get("least")
            if least is not None and value is not None and value < least:
                raise ConfigError(f"{type(self).__name__}: {field.name} must be at least {least}, got {value}")
            object.__setattr__(self, field.name, value)
        # An empty list says the same as none, and so do two configs.
        object.__setattr__(self, "include", self.include or None)

    def excludes(self, module_name: str) -> bool:
        """Check whether a pattern of `exclude` matches the module's full name or the end of it."""
        return self._excluded.match(module_name)

    def includes(self, module_name: str) -> bool:
        """Check whether a pattern of `include` matches the module's full name or the end of it."""
        return self._included.match(module_name)

    @cached_property
    def _excluded(self) -> NamePatterns:
        return NamePatterns(self.exclude)

    @cached_property
    def _included(self) -> NamePatterns:
        return NamePatterns(self.include or ())

    def of(self, layer: str) -> Self:
        """Return the config of the layer of this name. Default: this one, for all layers."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values; without `include` where it names nothing, as for most models."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.include:
            del values["include"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def absent(cls) -> dict[str, Any]:
        """Return the options that were added later, each with what a file that lacks it means."""
        return {field.name: field.metadata["absent"] for field in fields(cls) if "absent" in field.metadata}

    @classmethod
    def files(cls) -> tuple[str, ...]:
        """Return the options that name a file of this machine."""
        return tuple(field.name for field in fields(cls) if field.metadata.get("is_file"))

    def as_given(self) -> Self:
        """Return the config with defaults in place of what a plan has resolved them to."""
        return self

    def stored_in(self, name: str, *, lossy: bool = False) -> "MethodConfig | None":
        """Return the config that makes the same codes and stores them in another format; None where none does.

        Args:
            name: of the format.
            lossy: whether the format rounds minima that it stores instead of zero points.
        """
        changes: dict[str, Any] = {"format": name}
        if any(field.name == "lossy" for field in fields(self)):
            changes["lossy"] = lossy
        with suppress(ConfigError):
            return replace(self, **changes)
        return None

    def to_file(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values, without those that a file may lack and that have such a value."""
        absent = self.absent()
        return {name: value for name, value in self.to_dict().items() if name not in absent or value != absent[name]}

    @classmethod
    def from_file(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these field values from a file, which may lack options that were added later.

        Raises:
            ConfigError: as `from_dict`.
        """
        return cls.from_dict({**cls.absent(), **values})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these field values.

        Raises:
            ConfigError: a key that is no field, or a value that the field does not allow.
        """
        return cls(**values)

    @classmethod
    def from_typed(cls, values: Mapping[str, Any]) -> Self:
        """Return the config with these field values, which a person typed: one without effect is a mistake.

        Raises:
            ConfigError: as `from_dict`, or an option that does nothing beside the others.
        """
        return cls.from_dict(values)


def as_call(config: MethodConfig) -> str:
    """Return a config as the Python call that makes it, `NF4(double_quant=False)`; defaults are left out."""
    defaults = type(config)().to_dict()
    given = config.as_given().to_dict()
    changed = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != defaults.get(name))
    return f"{type(config).__name__}({changed})"


def _refuse_unknown(config_class: type[MethodConfig], values: Mapping[str, Any]) -> None:
    names = [field.name for field in fields(config_class)]
    unknown = sorted(set(values) - set(names), key=str)
    if not unknown:
        return
    allowed = ", ".join(names)
    hint = did_you_mean(str(unknown[0]), names)
    message = f"{config_class.__name__} has no option {unknown[0]!r}: {hint}its options are {allowed}"
    if unknown[0] in PER_LAYER_OPTIONS:
        message += (
            "; it quantizes all layers alike: exclude leaves some as they are, GPTQ, GGUF, AbsMax and ZeroPoint mix"
        )
    raise ConfigError(message)


# The options that a `MixedConfig` adds to a method's own.
PER_LAYER_OPTIONS = ("rules", "target_bits", "target_size")


def _coerce(hint: Any, value: Any) -> Any:
    """Convert a list to a tuple, or an int to a float, where the field has that type; leave any other value."""
    if isinstance(value, list) and any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint))):
        return tuple(value)
    if float in (hint, *typing.get_args(hint)) and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):  # left an int, it is refused as no number that a float can be
            return float(value)
    return value


def _is_instance(hint: Any, value: Any) -> bool:
    """Check whether a value has the type of a field's annotation; a bool is no int."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
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
    """Return a field's type in words, for an error message."""
    if typing.get_origin(hint) is tuple:
        return "a list of names"
    if typing.get_origin(hint) is Mapping:
        return "patterns of names, each with options"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_describe(item) for item in typing.get_args(hint))
    return {bool: "true or false", types.NoneType: "None", int: "a whole number", float: "a number", str: "a text"}.get(
        hint, str(hint)
    )
