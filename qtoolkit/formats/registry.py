"""The formats by name: the one place that knows which there are."""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from qtoolkit.errors import ConfigError, oneline
from qtoolkit.formats.base import Format, LayersOf
from qtoolkit.optional import brought, package_of

ENTRY_POINT_GROUP = "qtoolkit.formats"
# Packages of this folder, each with `FORMAT`, by the name of the format.
_OWN = ("bitsandbytes", "gptq", "native")
# What `register_formats` was given; nothing before.
_layers_of: list[LayersOf] = []


def available_formats() -> tuple[str, ...]:
    """Return the names of all formats, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.formats`: `name = "package.module:FORMAT"`.
    """
    return tuple(sorted({*_OWN, *brought(ENTRY_POINT_GROUP)}))


def get_format(name: str) -> Format:
    """Return the format of this name.

    Raises:
        ConfigError: there is none, or its package cannot be used; the message says what to do.
    """
    if name in _OWN:
        return _load(f"qtoolkit.formats.{name}", "FORMAT")
    entries = brought(ENTRY_POINT_GROUP).get(name)
    if not entries:
        raise ConfigError(f"no format {name!r:.40}: the formats are {', '.join(available_formats())}")
    try:
        return _load(entries[0].module, entries[0].attr)
    except Exception as error:  # another package's module raises anything
        package = package_of(entries[0])
        raise ConfigError(f"format {name!r} is broken ({oneline(error)}): update or uninstall {package}") from error


@cache
def _load(module: str, name: str) -> Format:
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Format)
    for layers_of in _layers_of:
        found.register(layers_of)
    return found


def _formats() -> Iterator[Format]:
    """All formats; one whose package is broken is warned of and left out, since others are read without it."""
    for name in available_formats():
        try:
            yield get_format(name)
        except ConfigError as error:
            warnings.warn(str(error), stacklevel=2)


def format_of(values: Mapping[str, Any] | None) -> Format | None:
    """Return the format of a checkpoint by the `quantization_config` of its config; None where none here reads it."""
    kind = (values or {}).get("quant_method")
    return next((found for found in _formats() if found.quant_method == kind), None)


def packages_of_format(name: str) -> tuple[str, ...]:
    """The package that brings the format of this name, as pip knows it; none for a format of qtoolkit's own."""
    others = [] if name in _OWN else brought(ENTRY_POINT_GROUP).get(name, [])
    return tuple(map(package_of, others[:1]))


def side_file_names() -> tuple[str, ...]:
    """The files that readers of some format look for beside a `config.json`."""
    return tuple(name for found in _formats() for name in found.side_file_names)


def side_files_of(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files that readers look for beside a `config.json` with this `quantization_config`: texts by name."""
    found = format_of(values)
    return {} if found is None else found.side_files(values)


@contextmanager
def quiet_layers() -> Iterator[None]:
    """Layers of all formats without what they log again and again."""
    with ExitStack() as stack:
        for found in _formats():
            stack.enter_context(found.quiet())
        yield


def register_formats(layers_of: LayersOf) -> None:
    """Let transformers read all formats; `layers_of` is that of `Format.register`.

    A format of another package that cannot be imported yet, since it needs a module of qtoolkit that is not whole,
    follows when it is first asked for.
    """
    _layers_of[:] = [layers_of]
    for name in available_formats():
        with suppress(ConfigError):
            get_format(name).register(layers_of)
