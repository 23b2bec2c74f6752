"""The formats by name: the one place that knows which there are."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.formats.base import Format, LayersOf

ENTRY_POINT_GROUP = "qtoolkit.formats"
# Packages of this folder, each with `FORMAT`, by the name of the format.
_OWN = ("bitsandbytes", "gptq", "native")


def available_formats() -> tuple[str, ...]:
    """Return the names of all formats, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.formats`: `name = "package.module:FORMAT"`.
    """
    return tuple(sorted({*_OWN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))}))


@cache
def get_format(name: str) -> Format:
    """Return the format of this name.

    Raises:
        ConfigError: there is none; the message names those that there are.
    """
    if name in _OWN:
        found = importlib.import_module(f"qtoolkit.formats.{name}").FORMAT
    else:
        brought = [entry for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name == name]
        if not brought:
            raise ConfigError(f"no format {name!r:.40}: the formats are {', '.join(available_formats())}")
        found = brought[0].load()
    assert isinstance(found, Format)
    return found


def format_of(values: Mapping[str, Any] | None) -> Format | None:
    """Return the format of a checkpoint by the `quantization_config` of its config; None where none here reads it."""
    kind = (values or {}).get("quant_method")
    formats = (get_format(name) for name in available_formats())
    return next((found for found in formats if found.quant_method == kind), None)


def side_files_of(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files that readers look for beside a `config.json` with this `quantization_config`: texts by name."""
    found = format_of(values)
    return {} if found is None else found.side_files(values)


@contextmanager
def quiet_layers() -> Iterator[None]:
    """Layers of all formats of this package without what they log again and again."""
    with ExitStack() as stack:
        for name in _OWN:
            stack.enter_context(get_format(name).quiet())
        yield


def register_formats(layers_of: LayersOf) -> None:
    """Let transformers read the formats of this package; `layers_of` is that of `Format.register`."""
    for name in _OWN:
        get_format(name).register(layers_of)
