"""Methods by name: the files of this folder and the entry-point group `qtoolkit.methods`.

Nothing is imported until it is named.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError, UnknownMethodError, UnsupportedModelError
from qtoolkit.methods._config import MethodConfig, as_call, option
from qtoolkit.methods._method import Layer, Method
from qtoolkit.methods._rules import MixedConfig, check_rules, rules_of
from qtoolkit.records import OnProgress

if TYPE_CHECKING:
    from qtoolkit.source import Checkpoint

__all__ = [
    "Layer",
    "Method",
    "MethodConfig",
    "MixedConfig",
    "OnProgress",
    "as_call",
    "available_methods",
    "check_rules",
    "config_class",
    "config_of_checkpoint",
    "find_config",
    "get_method",
    "option",
    "reader_of",
    "resolve_config",
    "rules_of",
]

ENTRY_POINT_GROUP = "qtoolkit.methods"


def available_methods() -> tuple[str, ...]:
    """The names of all methods, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.methods`: `name = "package.module:METHOD"`.
    """
    return tuple(sorted({*_own_methods(), *_brought_methods()}))


def get_method(name: str) -> Method:
    """The method of this name; "zero-point" and "zero_point" are the same.

    Raises:
        UnknownMethodError: no such method, or two packages bring one of the same name.
    """
    key = name.replace("-", "_").lower()
    brought = _brought_methods()
    if key in brought and (key in _own_methods() or len(brought[key]) > 1):
        raise UnknownMethodError(
            f"method {key!r} is brought more than once: uninstall one of {_packages(brought[key])}"
        )
    if key in _own_methods():
        method = importlib.import_module(f"qtoolkit.methods.{key}").METHOD
    elif key in brought:
        method = brought[key][0].load()
    else:
        raise UnknownMethodError(f"no method {name!r}: the methods are {', '.join(available_methods())}")
    assert isinstance(method, Method)
    return method


def config_class(name: str) -> type[MethodConfig]:
    """The config class of the method of this name."""
    return get_method(name).config_class


def find_config(name: str) -> type[MethodConfig] | None:
    """The config class of this name among the methods of this package: NF4 is the one of the file `nf4.py`."""
    files = [file for file in _own_methods() if file.replace("_", "") == name.lower()]
    found = config_class(files[0]) if files else None
    return found if found is not None and found.__name__ == name else None


def config_of_checkpoint(values: Mapping[str, Any]) -> MethodConfig:
    """The config that a checkpoint's `quantization_config` stands for.

    Raises:
        UnsupportedModelError: it was quantized by something that is none of our methods.
    """
    kind = values.get("quant_method")
    if kind == "qtoolkit":
        return config_class(values["method"]).from_dict(values["options"])
    if kind == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        return resolve_config(BitsAndBytesConfig.from_dict(dict(values)))
    if kind == "gptq":
        from qtoolkit.methods._gptq_stored import config_of

        return config_of(values)
    raise UnsupportedModelError(f"no method here reads checkpoints of {kind!r}: load it with transformers")


def reader_of(checkpoint: "Checkpoint") -> tuple[Method, MethodConfig]:
    """The method that reads a quantized checkpoint back, as it plans and loads this one, and its config.

    Raises:
        CheckpointError: the checkpoint is damaged.
        UnsupportedModelError: it was quantized by something that is none of our methods.
    """
    if (checkpoint.quantization or {}).get("quant_method") == "gptq":
        from qtoolkit.methods._gptq_checkpoint import correct_format

        correct_format(checkpoint)
    config = config_of_checkpoint(checkpoint.quantization or {})
    if config.method == "gptq":
        from qtoolkit.methods._gptq_stored import StoredGPTQ

        return StoredGPTQ(checkpoint), config
    return get_method(config.method), config


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
        from qtoolkit.methods._bitsandbytes import from_transformers

        name, values = from_transformers(config)
        return config_class(name).from_dict(values)
    if isinstance(config, type) and issubclass(config, MethodConfig):
        return config()
    allowed = f"a config such as qt.NF4(), or one of {', '.join(available_methods())}"
    raise ConfigError(f"config must be {allowed}, got {type(config).__name__}: {config!r:.60}")


def _own_methods() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def _brought_methods() -> Mapping[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def _packages(entries: list[EntryPoint]) -> str:
    return ", ".join(entry.dist.name if entry.dist else entry.value for entry in entries)
