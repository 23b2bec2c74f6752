"""Find formats by name: those of this package and those of the entry-point group `qtoolkit.formats`."""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from functools import cache
from typing import Any

from qtoolkit.errors import ConfigError, did_you_mean, oneline
from qtoolkit.formats.base import Format, LayersOf
from qtoolkit.formats.file_format import FileFormat
from qtoolkit.formats.grouped import GroupedFormat
from qtoolkit.formats.layers_format import LayersFormat
from qtoolkit.optional import entry_points_in, package_of

ENTRY_POINT_GROUP = "qtoolkit.formats"
# The formats of this package: each is the `FORMAT` of the sub-package of its name.
_OWN = ("auto-round", "awq", "bitsandbytes", "compressed-tensors", "gguf", "gptq", "mlx", "native")
# The argument of `register_formats`; empty before it was called.
_layers_of: list[LayersOf] = []


def available_formats() -> tuple[str, ...]:
    """Return the names of all formats, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.formats`: `name = "package.module:FORMAT"`.
    """
    return tuple(sorted({*_OWN, *entry_points_in(ENTRY_POINT_GROUP)}))


def get_format(name: str) -> Format:
    """Return the format of this name.

    Raises:
        ConfigError: no such format, or its package is broken; the message says what to do.
    """
    if name in _OWN:
        return _load(f"qtoolkit.formats.{name.replace('-', '_')}", "FORMAT")
    entries = entry_points_in(ENTRY_POINT_GROUP).get(name)
    if not entries:
        known = available_formats()
        hint = did_you_mean(name, known)
        raise ConfigError(f"no format {name!r:.40}: {hint}the formats are {', '.join(known)}")
    try:
        return _load(entries[0].module, entries[0].attr)
    except Exception as error:  # another package's module may raise anything
        package = package_of(entries[0])
        raise ConfigError(f"format {name!r} is broken ({oneline(error)}): update or uninstall {package}") from error


def get_grouped_format(config: Any) -> GroupedFormat:
    """Return the format that a config names, which holds integer codes in groups, these ones too.

    Args:
        config: a method's, with `bits`, as `GroupedFormat` says.

    Raises:
        ConfigError: the format holds no such codes; the message names one that does.
    """
    named = get_format(config.format)
    what = type(config).__name__
    grouped = [format_ for format_ in _formats() if isinstance(format_, GroupedFormat)]
    holding = " or ".join(f"format={other.name!r}" for other in grouped if config.bits in other.widths)
    if not isinstance(named, GroupedFormat):
        raise ConfigError(f"{what}: format {named.name!r} holds no codes in groups: give {holding}")
    if config.bits not in named.widths:
        widths = f"{', '.join(map(str, named.widths[:-1]))} or {named.widths[-1]}"
        raise ConfigError(f"{what}: format {named.name!r} holds {widths} bits, not {config.bits}: give {holding}")
    check_embeddings(config)
    named.check(config)
    return named


def check_embeddings(config: Any) -> None:
    """Refuse a config that asks for embeddings which its format does not hold.

    Args:
        config: a method's; one without `embeddings` is accepted.

    Raises:
        ConfigError: the format holds no embeddings of these bits; the message names one that does.
    """
    embeddings = getattr(config, "embeddings", None)
    if embeddings is None:
        return
    holding = {
        format_.name: format_
        for format_ in _formats()
        if isinstance(format_, GroupedFormat) and embeddings in format_.embedding_widths
    }
    if config.format in holding:
        return
    allowed = next((field.metadata.get("choices") for field in fields(config) if field.name == "format"), None)
    offered = " or ".join(f"format={name!r}" for name in holding if allowed is None or name in allowed)
    advice = f"give {offered}, or leave embeddings out" if offered else "leave embeddings out"
    what = type(config).__name__
    raise ConfigError(f"{what}: format {config.format!r} holds no embeddings of {embeddings} bits: {advice}")


def conversion_targets() -> dict[str, tuple[GroupedFormat | LayersFormat | FileFormat, str]]:
    """Return what codes can be converted to, sorted by name: the format and its layout of each."""
    found: dict[str, tuple[GroupedFormat | LayersFormat | FileFormat, str]] = {}
    for format_ in _formats():
        if isinstance(format_, GroupedFormat):
            found |= {layout: (format_, layout) for layout in format_.layouts or (format_.name,)}
        elif isinstance(format_, LayersFormat) or (isinstance(format_, FileFormat) and format_.takes_codes):
            found[format_.name] = (format_, format_.name)
    return dict(sorted(found.items()))


@cache
def _load(module: str, name: str) -> Format:
    """Import a format, and register it with transformers if `register_formats` was called before."""
    loaded = getattr(importlib.import_module(module), name)
    assert isinstance(loaded, Format)
    for layers_of in _layers_of:
        loaded.register(layers_of)
    return loaded


def _formats() -> Iterator[Format]:
    """Yield all formats; warn of one whose package is broken, and skip it."""
    for name in available_formats():
        try:
            yield get_format(name)
        except ConfigError as error:
            warnings.warn(str(error), stacklevel=2)


def format_of(values: Mapping[str, Any] | None) -> Format | None:
    """Return the format of a checkpoint by the `quantization_config` of its config; None where no format reads it."""
    return next((format_ for format_ in _formats() if format_.describes(values or {})), None)


def packages_of_format(name: str) -> tuple[str, ...]:
    """Return the package that brings the format of this name, as pip names it; none for a format of qtoolkit's own."""
    others = [] if name in _OWN else entry_points_in(ENTRY_POINT_GROUP).get(name, [])
    return tuple(map(package_of, others[:1]))


def side_file_names() -> tuple[str, ...]:
    """Return the names of the files that readers of any format look for beside a `config.json`."""
    return tuple(name for format_ in _formats() for name in format_.side_file_names)


def side_files_of(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the files that readers look for beside a `config.json` with this `quantization_config`: texts by name."""
    format_ = format_of(values)
    return {} if format_ is None else format_.side_files(values)


@contextmanager
def quiet_layers() -> Iterator[None]:
    """Suppress repeated log lines of the layers of all formats."""
    with ExitStack() as stack:
        for format_ in _formats():
            stack.enter_context(format_.quiet())
        yield


def register_formats(layers_of: LayersOf) -> None:
    """Let transformers read all formats; `layers_of` is that of `Format.register`.

    A format of another package that cannot be imported yet, because a module of qtoolkit that it needs is still being
    imported, is registered when it is first used.
    """
    _layers_of[:] = [layers_of]
    for name in available_formats():
        with suppress(ConfigError):
            get_format(name).register(layers_of)
