"""Methods by name: the files of this folder and the entry-point group `qtoolkit.methods`.

Nothing is imported until it is named.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from qtoolkit.errors import ConfigError, UnknownMethodError, UnsupportedModelError
from qtoolkit.formats import Layer, Reader, format_of, packages_of_format, register_formats
from qtoolkit.methods._config import MethodConfig, as_call
from qtoolkit.methods._linear import LinearLayers, LinearMethod
from qtoolkit.methods._method import Method, Offer, Outcome
from qtoolkit.methods._rules import MixedConfig, check_rules, rules_of
from qtoolkit.optional import brought, package_of
from qtoolkit.records import OnProgress
from qtoolkit.requests import option

if TYPE_CHECKING:
    from qtoolkit.models import Checkpoint

__all__ = [
    "Layer",
    "LinearMethod",
    "Method",
    "MethodConfig",
    "MixedConfig",
    "Offer",
    "OnProgress",
    "Outcome",
    "as_call",
    "available_methods",
    "check_rules",
    "config_class",
    "config_of_checkpoint",
    "find_config",
    "get_method",
    "offered",
    "option",
    "packages_of_method",
    "reader_of",
    "resolve_config",
    "rules_of",
]

ENTRY_POINT_GROUP = "qtoolkit.methods"


def available_methods() -> tuple[str, ...]:
    """Return the names of all methods, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.methods`: `name = "package.module:METHOD"`.
    """
    return tuple(sorted({*_own_methods(), *brought(ENTRY_POINT_GROUP)}))


def get_method(name: str) -> Method:
    """Return the method of this name; "zero-point" and "zero_point" are the same.

    Raises:
        UnknownMethodError: no such method, or two packages bring one of the same name.
    """
    key = name.replace("-", "_").lower()
    others = brought(ENTRY_POINT_GROUP).get(key, [])
    if others and (key in _own_methods() or len(others) > 1):
        packages = ", ".join(map(package_of, others))
        raise UnknownMethodError(f"method {key!r} is brought more than once: uninstall one of {packages}")
    if key in _own_methods():
        method = importlib.import_module(f"qtoolkit.methods.{key}").METHOD
    elif others:
        method = others[0].load()
    else:
        raise UnknownMethodError(f"no method {name!r}: the methods are {', '.join(available_methods())}")
    assert isinstance(method, Method)
    return method


def offered(*, calibrated: bool = True) -> list[tuple[Offer, MethodConfig]]:
    """Return what methods offer, and the config of each, from the least loss to the most.

    Args:
        calibrated: also the offers of methods that calibrate, and so keep a journal.
    """
    methods = [get_method(name) for name in available_methods()]
    asked = [method for method in methods if calibrated or not method.resumes]
    offers = [(offer, method.config_class.from_dict(offer.options)) for method in asked for offer in method.offers]
    return sorted(offers, key=lambda pair: pair[0].perplexity_ratio or 1.0)


def packages_of_method(name: str) -> tuple[str, ...]:
    """The packages beside qtoolkit that bring the method of this name, and its format, as pip knows them."""
    others = brought(ENTRY_POINT_GROUP).get(name, [])[:1]
    return tuple(dict.fromkeys((*map(package_of, others), *packages_of_format(config_class(name).format))))


def config_class(name: str) -> type[MethodConfig]:
    """Return the config class of the method of this name."""
    return get_method(name).config_class


def find_config(name: str) -> type[MethodConfig] | None:
    """Return the config class of this name among the methods of this package: NF4 is the one of the file `nf4.py`."""
    files = [file for file in _own_methods() if file.replace("_", "") == name.lower()]
    found = config_class(files[0]) if files else None
    return found if found is not None and found.__name__ == name else None


def config_of_checkpoint(values: Mapping[str, Any]) -> MethodConfig:
    """Return the config that a checkpoint's `quantization_config` stands for; what it does not tell is as by default.

    Raises:
        CheckpointError, UnsupportedModelError: it cannot be, or nothing here reads such checkpoints.
    """
    found = format_of(values)
    if found is None:
        kind = values.get("quant_method")
        raise UnsupportedModelError(f"no method here reads checkpoints of {kind!r}: load it with transformers")
    name, options = found.method_of(values)
    return config_class(name).from_dict(options)


class ReadAs(NamedTuple):
    """How a quantized checkpoint is read.

    Attributes:
        checkpoint: the checkpoint, with what its config tells wrongly put right, and noted.
        reader: what plans and loads it.
        config: the config that it stands for.
    """

    checkpoint: "Checkpoint"
    reader: Method | Reader
    config: MethodConfig


def reader_of(checkpoint: "Checkpoint") -> ReadAs:
    """Return what plans and loads a quantized checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged.
        UnsupportedModelError: it was quantized by something that is none of our methods.
    """
    stored = format_of(checkpoint.quantization)
    if stored is not None:
        checkpoint = stored.corrected(checkpoint)
    reader = None if stored is None else stored.reader(checkpoint)
    config = config_of_checkpoint(checkpoint.quantization or {})
    if reader is None:
        return ReadAs(checkpoint, get_method(config.method), config)
    if isinstance(config, MixedConfig):
        # The bits that layers have in the file.
        config = replace(config, rules=rules_of(reader.bits, config.bits)[1])
    return ReadAs(checkpoint, reader, config)


def register() -> None:
    """Let transformers read our checkpoints; once is enough, more does no harm."""
    register_formats(_layers_of)


def resolve_config(config: Any) -> MethodConfig:
    """A config as one of ours: a config, a method's name, or transformers' `BitsAndBytesConfig`.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(config, MethodConfig):
        return config
    if isinstance(config, str):
        return config_class(config)()
    if type(config).__name__ == "BitsAndBytesConfig":
        from qtoolkit.formats.bitsandbytes import options_of

        name, values = options_of(config)
        return config_class(name).from_dict(values)
    if isinstance(config, type) and issubclass(config, MethodConfig):
        return config()
    allowed = f"a config such as qt.NF4(), or one of {', '.join(available_methods())}"
    raise ConfigError(f"config must be {allowed}, got {type(config).__name__}: {config!r:.60}")


def _layers_of(name: str, options: Mapping[str, Any]) -> LinearLayers:
    method = get_method(name)
    if not isinstance(method, LinearMethod):
        raise UnsupportedModelError(f"method {name!r} builds no layers of its own: its checkpoint is damaged")
    return LinearLayers(method, method.config_class.from_dict(options))


def _own_methods() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
