"""Find methods by name: those of this package and those of the entry-point group `qtoolkit.methods`.

The module of a method is imported when the method is first requested.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from qtoolkit.errors import ConfigError, UnknownMethodError, UnsupportedModelError, did_you_mean
from qtoolkit.formats import GroupedFormat, Layer, Reader, format_of, get_format, packages_of_format, register_formats
from qtoolkit.methods.config import MethodConfig, as_call
from qtoolkit.methods.method import Method, Offer, Outcome
from qtoolkit.methods.mixed_precision import Choice, MixedBits, MixedConfig, check_rules, rules_of
from qtoolkit.methods.weight_only import LinearLayers, LinearMethod, WeightOnlyMethod
from qtoolkit.optional import entry_points_in, package_of
from qtoolkit.readers import Stored, asked_version, describe_stored, group_size_of
from qtoolkit.records import OnProgress
from qtoolkit.requests import option

if TYPE_CHECKING:
    from qtoolkit.models.checkpoint import Checkpoint

__all__ = [
    "Choice",
    "Layer",
    "LinearMethod",
    "Method",
    "MethodConfig",
    "MixedConfig",
    "Offer",
    "OnProgress",
    "Outcome",
    "WeightOnlyMethod",
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
    "recipes",
    "resolve_config",
    "rules_of",
    "stored_of",
]

ENTRY_POINT_GROUP = "qtoolkit.methods"
# The methods of this package as entry points, like those of other packages.
_OWN = {
    name: EntryPoint(name, f"qtoolkit.methods.{value}", ENTRY_POINT_GROUP)
    for name, value in {
        "absmax": "affine:ABSMAX",
        "fp4": "bitsandbytes:FP4_METHOD",
        "fp8": "eight_bits:FP8_METHOD",
        "gguf": "block_rounding:METHOD",
        "gptq": "gptq:METHOD",
        "int8": "bitsandbytes:INT8_METHOD",
        "nf4": "bitsandbytes:NF4_METHOD",
        "w8a8": "eight_bits:W8A8_METHOD",
        "zero_point": "affine:ZERO_POINT",
    }.items()
}
# What people call a method elsewhere -> the one that stands in its place here.
_ELSEWHERE = {
    **dict.fromkeys(("4bit", "int4", "bnb", "bitsandbytes", "qlora"), "nf4"),
    **dict.fromkeys(("8bit", "llm_int8", "llm.int8"), "int8"),
    **dict.fromkeys(("awq", "autogptq", "autoawq"), "gptq"),
    "rtn": "absmax",
    "smoothquant": "w8a8",
}


def available_methods() -> tuple[str, ...]:
    """Return the names of all methods, sorted: those of this package and those that other packages bring.

    A package brings one with an entry point of the group `qtoolkit.methods`: `name = "package.module:METHOD"`.
    """
    return tuple(sorted({*_OWN, *entry_points_in(ENTRY_POINT_GROUP)}))


def get_method(name: str) -> Method:
    """Return the method of this name; "zero-point" and "zero_point" are the same.

    Raises:
        UnknownMethodError: no such method, or two packages bring one of the same name.
    """
    key = name.replace("-", "_").lower()
    others = entry_points_in(ENTRY_POINT_GROUP).get(key, [])
    entries = [*others, *([_OWN[key]] if key in _OWN else [])]
    if not entries:
        known = available_methods()
        elsewhere = "gguf" if re.match(r"i?q\d", key) else _ELSEWHERE.get(key)
        near = f"did you mean {elsewhere}? " if elsewhere else did_you_mean(name, known)
        raise UnknownMethodError(f"no method {name!r}: {near}the methods are {', '.join(known)}")
    if len(entries) > 1:
        packages = ", ".join(map(package_of, others))
        raise UnknownMethodError(f"method {key!r} is brought more than once: uninstall one of {packages}")
    method = entries[0].load()
    assert isinstance(method, Method)
    return method


def offered(*, for_: str | None, calibrated: bool = True) -> list[tuple[Offer, MethodConfig]]:
    """Return the offers of all methods with the config of each, from the least loss of quality to the most.

    Args:
        for_: the program that shall load the result, as `check_reader` returns it; None or empty for none in
            particular, for which no offer is made that is for some programs alone.
        calibrated: also the offers of methods that calibrate, and so keep a journal.
    """
    program, _ = asked_version(for_ or "")
    methods = [*map(get_method, available_methods())]
    offers = [
        (offer, config)
        for method in methods
        for offer in method.offers
        for config in [method.config_class.from_dict(offer.options)]
        if (calibrated or not method.resumes(config)) and (not offer.readers or program in offer.readers)
    ]
    return sorted(offers, key=lambda pair: pair[0].perplexity_ratio or 1.0)


def recipes() -> tuple[MethodConfig, ...]:
    """Return the configs that a frontier tries: for each method its recipes, or else its offers, or its default.

    Those that calibrate come last: they take longest.
    """
    tried = [
        (method.resumes(config), config)
        for method in map(get_method, available_methods())
        for options in method.recipes or tuple(offer.options for offer in method.offers) or ({},)
        for config in [method.config_class.from_dict(options)]
    ]
    return tuple(config for _, config in sorted(tried, key=lambda pair: pair[0]))


def packages_of_method(name: str) -> tuple[str, ...]:
    """Return the packages other than qtoolkit that bring the method of this name and its format, as pip names them."""
    others = entry_points_in(ENTRY_POINT_GROUP).get(name, [])[:1]
    return tuple(dict.fromkeys((*map(package_of, others), *packages_of_format(config_class(name).format))))


def config_class(name: str) -> type[MethodConfig]:
    """Return the config class of the method of this name."""
    return get_method(name).config_class


def find_config(name: str) -> type[MethodConfig] | None:
    """Return the config class of this name, such as "NF4", among the methods of this package; None where none has it.

    A config is called as its method, apart from case and underscores; only that method's module is imported.
    """
    own = next((key for key in _OWN if key.replace("_", "") == name.lower()), None)
    config = config_class(own) if own else None
    return config if config is not None and config.__name__ == name else None


def config_of_checkpoint(values: Mapping[str, Any]) -> MethodConfig:
    """Return the config that a checkpoint's `quantization_config` describes; other fields as `MethodConfig.from_file`.

    Raises:
        CheckpointError, UnsupportedModelError: an impossible value, or a checkpoint that no format here reads.
    """
    stored_as = format_of(values)
    if stored_as is None:
        kind = values.get("quant_method")
        raise UnsupportedModelError(f"no method here reads checkpoints of {kind!r}: load it with transformers")
    name, options = stored_as.method_of(values)
    return config_class(name).from_file(options)


def stored_of(
    config: MethodConfig,
    layers: Mapping[str, int] = MappingProxyType({}),
    left: Iterable[str] = (),
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    dtype: str = "",
    values: Mapping[str, Any] | None = None,
    architecture: str = "",
    heads: tuple[int, ...] = (),
) -> Stored:
    """Return how the result of a config is, or will be, stored.

    Args:
        config: a method's.
        layers: bits of the quantized layers by their full names, 0 for what the config says; empty where the layers are
            not known.
        left: full names of the modules that are not quantized.
        shapes: [outputs, inputs] of the quantized layers by their full names; None where they are not known.
        dtype: type of what is not quantized, "bfloat16"; empty where it is not known.
        values: the `quantization_config` of the result; None before there is one.
        architecture: class of the model; empty where it is not known.
        heads: heads of queries, and of keys and values; empty where they are not known.
    """
    method = get_method(config.method)
    own = method.code_bits or 0
    options = {"bits": method.code_bits, **config.to_dict()}
    written = format_of(values)
    stored_as = get_format(config.format) if written is None else written
    held, layouts = (stored_as.group_sizes, stored_as.layouts) if isinstance(stored_as, GroupedFormat) else ((), ())
    if options.get("checkpoint_format") not in layouts:
        # The option is there for another format.
        options.pop("checkpoint_format", None)
    if held and options.get("granularity", "group") != "group":
        # One scale of an output is repeated for its groups.
        options |= {"granularity": "group", "group_size": max(held)}
    whole = max(held) if held else -1
    sizes: dict[str, int | None] | None = None
    if isinstance(config, MixedConfig) and config.rules:
        own_sizes = {name: group_size_of(vars(config.of(name))) for name in layers}
        sizes = {name: whole if size == -1 else size for name, size in own_sizes.items()}
    return describe_stored(
        stored_as.name,
        options,
        {name: bits or own or getattr(config.of(name), "bits", 0) for name, bits in layers.items()},
        left,
        shapes=shapes,
        groups=sizes,
        sym=method.symmetric,
        input_type=config.input_type,
        dtype=dtype,
        values=values,
        architecture=architecture,
        heads=heads,
    )


class ReadAs(NamedTuple):
    """How a quantized checkpoint is read.

    Attributes:
        checkpoint: the checkpoint, with wrong values of its config corrected, and a note for each.
        reader: what plans and loads it.
        config: the config that the checkpoint describes.
    """

    checkpoint: "Checkpoint"
    reader: Method | Reader
    config: MethodConfig


def reader_of(checkpoint: "Checkpoint") -> ReadAs:
    """Return how a quantized checkpoint is read: its corrected form, what plans and loads it, and its config.

    Raises:
        CheckpointError: the checkpoint is damaged.
        UnsupportedModelError: no format here reads it.
    """
    stored_as = format_of(checkpoint.quantization)
    if stored_as is not None:
        checkpoint = stored_as.corrected(checkpoint)
    reader = None if stored_as is None else stored_as.reader(checkpoint)
    config = config_of_checkpoint(checkpoint.quantization or {})
    if reader is None:
        return ReadAs(checkpoint, get_method(config.method), config)
    if isinstance(config, MixedBits) and not config.rules:
        # Its rules give each layer the bits that the layer has in the file.
        config = replace(config, rules=rules_of(reader.bits, config.bits)[1])
    return ReadAs(checkpoint, reader, config)


def register() -> None:
    """Let transformers read the checkpoints of all formats; calling it again changes nothing."""
    register_formats(_layers_of)


def resolve_config(config: Any) -> MethodConfig:
    """Return a config as one of ours.

    Args:
        config: a config, a config class, a method's name, or transformers' `BitsAndBytesConfig`.

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
    """Return what builds the layers of a method, for formats whose files name the method and its options."""
    method = get_method(name)
    if not isinstance(method, LinearMethod):
        raise UnsupportedModelError(f"method {name!r} builds no layers of its own: its checkpoint is damaged")
    return LinearLayers(method, method.config_class.from_file(options))
