"""Read which codes a quantized checkpoint holds, and find how another format stores them, before any work."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.formats import (
    Format,
    Grid,
    GroupedFormat,
    Layer,
    LayersFormat,
    RecodedLayers,
    base_grid,
    conversion_targets,
    format_of,
    get_format,
)
from qtoolkit.formats.layer_codes import LayerCodes, layer_codes
from qtoolkit.formats.recoding import RecodedTensors
from qtoolkit.formats.stored_layer import StoredLayer, bias_dtype, module_names
from qtoolkit.formats.stored_reader import StoredReader
from qtoolkit.kernels import QuantizedLinear
from qtoolkit.methods import LinearMethod, MethodConfig, ReadAs, get_method, reader_of
from qtoolkit.models import structure
from qtoolkit.models.building import build_empty
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.renaming import matrices_in_file
from qtoolkit.publishing import receipt_of

# Options that say how codes are stored, and not how they were chosen.
LAYOUT = frozenset({"format", "bits", "group_size", "sym", "desc_act", "checkpoint_format", "embeddings"})
_FULL = "is in full precision: give it to qt.quantize, whose config has a format"


@dataclass(frozen=True)
class Convertible:
    """A quantized checkpoint whose codes can be taken over.

    Attributes:
        checkpoint: with wrong values of its config corrected.
        format, layout: the name of its format, and the way in which that packs codes.
        config: the config that it describes.
        is_named: whether its codes are known to be of that config's method, and not just as that makes them.
        options: fields of the config, with what its receipt adds to how the codes were chosen.
        model: the model on the meta device.
        layers: the codes of each quantized layer by the names of the model's modules.
    """

    checkpoint: Checkpoint
    format: str
    layout: str
    config: MethodConfig
    is_named: bool
    options: Mapping[str, Any]
    model: Any
    layers: Mapping[str, LayerCodes]

    @property
    def config_entries(self) -> dict[str, Any]:
        """Return the entries of `config.json` that describe the quantization."""
        return _entries(get_format(self.format), self.checkpoint.quantization or {})


@dataclass(frozen=True)
class Recoded:
    """How another format stores all layers of a checkpoint.

    Attributes:
        format, layout: the format, and its way to pack codes.
        tensors: of each quantized layer, by the names of the model's modules.
        values: the `quantization_config`.
        left: names in the file of the matrices in the blocks that are not quantized.
        notes: what was decided, one line each.
    """

    format: GroupedFormat | LayersFormat
    layout: str
    tensors: Mapping[str, RecodedTensors]
    values: dict[str, Any]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def config_entries(self) -> dict[str, Any]:
        """Return the entries of `config.json` that describe the quantization."""
        return _entries(self.format, self.values)


def _entries(stored_as: Format, values: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(stored_as, GroupedFormat):
        return stored_as.config_entries(values)
    return {"quantization_config": dict(values)}


def read_convertible(checkpoint: Checkpoint) -> Convertible:
    """Return the codes of a quantized checkpoint; scales and zero points are read, and no codes.

    Raises:
        CheckpointError: it is damaged.
        UnsupportedModelError: it is in full precision, or no other format holds its codes.
    """
    if checkpoint.quantization is None:
        raise UnsupportedModelError(f"{checkpoint.name} {_FULL}")
    read_as = reader_of(checkpoint)
    checkpoint = read_as.checkpoint
    stored_as = format_of(checkpoint.quantization)
    assert stored_as is not None
    reader = read_as.reader
    if isinstance(reader, StoredReader):
        model, layers = reader.model, dict(reader.layers)
        for layer in layers.values():
            reader.check_codes(layer)
    else:
        model = build_empty(checkpoint, checkpoint.dtype)
        layers = dict(_built_layers(read_as, model))
    if not layers:
        raise UnsupportedModelError(
            f"{checkpoint.name} is stored as {stored_as.name}, whose codes no other format holds: "
            "quantize the full-precision model"
        )
    token = structure.token_embedding(model)
    modules = dict(model.named_modules())
    in_blocks = _in_blocks(model)
    codes = {
        name: layer_codes(
            layer,
            checkpoint.tensors,
            place="block" if name.startswith(in_blocks) else "embedding" if name == token else "head",
            transposed=structure.is_transposed(modules[name]),
        )
        for name, layer in ((name, layers[name]) for name in modules if name in layers)
    }
    # Layers that servers join must be stored alike, so that one with zero points makes all others have them.
    sym = all(one.sym for one in codes.values() if one.place == "block")
    codes = {name: replace(one, sym=one.sym and (sym or one.place != "block")) for name, one in codes.items()}
    layouts = stored_as.layouts if isinstance(stored_as, GroupedFormat) else ()
    layout = getattr(read_as.config, "checkpoint_format", "") if layouts else stored_as.name
    return Convertible(
        checkpoint=checkpoint,
        format=stored_as.name,
        layout=layout,
        config=read_as.config,
        is_named=reader.name == read_as.config.method,
        options=_options_of(checkpoint, read_as.config),
        model=model,
        layers=codes,
    )


def _options_of(checkpoint: Checkpoint, config: MethodConfig) -> dict[str, Any]:
    """Return the fields of a config, those that do not say how codes are stored from the receipt beside the weights."""
    receipt = receipt_of(checkpoint).value
    options = config.to_dict()
    if receipt is None or receipt.method != config.method:
        return options
    noted = {**options, **{key: value for key, value in receipt.settings.items() if key not in LAYOUT}}
    try:
        return type(config).from_dict(noted).to_dict()
    except ConfigError:
        return options


def _in_blocks(model: Any) -> str:
    """Return how the names of the modules in a model's blocks begin."""
    blocks = structure.block_list(model)
    return f"{blocks[0]}." if blocks else "."


def _built_layers(read_as: ReadAs, model: Any) -> Iterator[tuple[str, StoredLayer]]:
    """Yield the layers of a checkpoint whose config names a method that builds them; none of another."""
    checkpoint, reader, config = read_as
    names = (checkpoint.quantization or {}).get("layers")
    if not (isinstance(reader, LinearMethod) and isinstance(names, list)):
        return
    weights = [key.removesuffix(".weight") for key in checkpoint.tensors if key.endswith(".weight")]
    in_file = {name: stored for stored, name in module_names(model, weights).items()}
    for name, built in _build(reader, config, model, names):
        if built is None or name not in in_file:
            return
        dtype = bias_dtype(in_file[name], built.out_features, checkpoint.tensors)
        yield name, StoredLayer(in_file[name], built, dtype)


def _build(method: LinearMethod, config: Any, model: Any, names: Any) -> Iterator[tuple[str, Any]]:
    """Yield how a method's own layers of these names store their weight; None for a layer of another kind."""
    for name in names:
        layer = Layer.of(name, model.get_submodule(name), "cpu")
        with torch.device("meta"):
            built = method.build(layer, config.of(name), torch.float32)
        yield name, built.stored if isinstance(built, QuantizedLinear) else None


def recode(source: Convertible, target: GroupedFormat | LayersFormat, layout: str) -> Recoded:
    """Find how a format stores all codes of a checkpoint unchanged.

    Raises:
        ConfigError: it does not hold them, or has them already; the message names formats that hold them.
    """
    name = source.checkpoint.name
    if (target.name, layout) == (source.format, source.layout):
        raise ConfigError(f"{name} is stored as {layout} already: name another format")
    if isinstance(target, LayersFormat):
        return _as_layers(source, target)
    if reason := _reason_against(source, target, layout):
        raise _refusal(source, layout, reason)
    usual = target.scale_dtype_of(source.checkpoint.dtype)
    dtype = _scale_dtype(source, usual)
    tensors = {name: target.recoded(codes, layout, dtype) for name, codes in source.layers.items()}
    described = _describe(source, tensors)
    values = _values(source, described, target, layout)
    if values is None:
        raise _refusal(source, layout, f"codes of method {source.config.method!r}")
    return Recoded(target, layout, tensors, values, described.left, tuple(_notes(source, tensors, dtype, usual)))


def _values(source: Convertible, described: RecodedLayers, target: GroupedFormat, layout: str) -> dict[str, Any] | None:
    """Return the `quantization_config` of a format; None where it cannot tell which method chose the codes."""
    values = target.describe_recoded(described, layout)
    method = source.config.method
    if target.method_of(values)[0] == method:
        return values
    own = _in_format(source.config, target.name)
    origin = {"method": method, "options": own.to_file()} if own is not None else None
    values = target.describe_recoded(replace(described, origin=origin), layout)
    return None if source.is_named and target.method_of(values)[0] != method else values


def _takes_all(source: Convertible, target: GroupedFormat, layout: str) -> bool:
    """Check whether a format holds all codes, and tells which method chose them."""
    if _reason_against(source, target, layout):
        return False
    tensors = {name: target.recoded(codes, layout, torch.float32) for name, codes in source.layers.items()}
    return _values(source, _describe(source, tensors), target, layout) is not None


def _as_layers(source: Convertible, target: LayersFormat) -> Recoded:
    """See `recode`: a format whose layers their method builds."""
    own = _in_format(source.config, target.name)
    method = get_method(source.config.method)
    if own is None or not isinstance(method, LinearMethod):
        raise _refusal(source, target.name, f"codes of method {source.config.method!r}")
    tensors = dict(_build(method, own, source.model, source.layers))
    for name, codes in source.layers.items():
        stored = tensors[name]
        if stored is None or (stored.bits, stored.centered) != (codes.bits, codes.sym) or not codes.in_order:
            raise _refusal(source, target.name, f"other codes than its config says ({codes.name})")
        dtype = stored.tensors()[stored.scale_name][1]
        if dtype not in codes.scale_dtypes:
            raise _refusal(source, target.name, f"scales that are not exact in {_words(dtype)} ({codes.name})")
    values = target.quantization_config(method.name, own.to_file(), list(source.layers)).to_dict()
    return Recoded(target, target.name, tensors, values, _describe(source, tensors).left)


def _in_format(config: MethodConfig, name: str) -> MethodConfig | None:
    """Return a config with another format; None where its method is not stored so."""
    changes: dict[str, Any] = {"format": name}
    try:
        return replace(config, **changes)
    except ConfigError:
        return None


def _reason_against(source: Convertible, target: GroupedFormat, layout: str) -> str:
    """Return what a format cannot store, and of which layer; empty where it holds all codes."""
    found = ((target.reason_against(codes, layout), codes.name) for codes in source.layers.values())
    return next((f"{reason} ({name})" for reason, name in found if reason), "")


def _refusal(source: Convertible, layout: str, reason: str) -> ConfigError:
    """Return the error of a format that does not hold the codes, which names those that do."""
    others = [
        f"format={name!r}"
        for name, (target, own) in conversion_targets().items()
        if isinstance(target, GroupedFormat)
        and (target.name, own) != (source.format, source.layout)
        and name != layout
        and _takes_all(source, target, own)
    ]
    way = f"give {' or '.join(others)}" if others else f"only its own, {source.layout}, does"
    return ConfigError(f"{source.checkpoint.name} has {reason}, which format {layout!r} does not hold: {way}")


def _scale_dtype(source: Convertible, usual: torch.dtype) -> torch.dtype:
    """Return the type in which all scales are exact: the usual one, or else the source's own, or float32."""
    layers = source.layers.values()
    every = (usual, *(codes.scale_dtype for codes in layers), torch.float32)
    return next(dtype for dtype in every if all(dtype in codes.scale_dtypes for codes in layers))


def _notes(
    source: Convertible, tensors: Mapping[str, RecodedTensors], dtype: torch.dtype, usual: torch.dtype
) -> Iterator[str]:
    """Return notes on scales of another type than the usual one, and on those that are repeated."""
    if dtype != usual:
        most = 2.0 ** (-9 if usual == torch.bfloat16 else -12)
        yield (
            f"scales are stored in {_words(dtype)}, since not all are exact in {_words(usual)}: programs that read "
            f"them in {_words(usual)} round them, by up to {100 * most:.2g} %"
        )
    sizes = {(codes.inputs_per_scale, tensors[name].inputs_per_scale) for name, codes in source.layers.items()}
    for before, after in sorted(sizes):
        if before != after:
            yield f"scales of {before} inputs are repeated in groups of {after}"


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe(source: Convertible, tensors: Mapping[str, RecodedTensors]) -> RecodedLayers:
    """Return what the config of a format says of all layers, each by its name in the file."""
    model, layers = source.model, source.layers
    in_blocks = _in_blocks(model)
    options = source.options
    order = "activation" if options.get("order") == "activation" else "natural"
    has_embedding = any(codes.place == "embedding" for codes in layers.values())
    apart = {name for name, codes in layers.items() if has_embedding and codes.place != "block"}
    whole = all(one.inputs_per_scale == one.in_features for name, one in tensors.items() if name not in apart)
    grids: dict[str, Grid] = {}
    embeddings: dict[str, Grid] = {}
    for name, codes in layers.items():
        size = tensors[name].inputs_per_scale
        if name not in apart:
            grids[codes.name] = Grid(codes.bits, size, codes.sym, order)
            continue
        tied = [one for one, other in model.all_tied_weights_keys.items() if other == f"{name}.weight"]
        names = (codes.name, *(one.removesuffix(".weight") for one in tied))
        embeddings |= dict.fromkeys(names, Grid(codes.bits, size, codes.sym))
    named = matrices_in_file(model, source.checkpoint.tensors)
    stored = {codes.name for codes in layers.values()} | embeddings.keys()
    others = {name: module for name, module in named.items() if name not in stored}
    in_file = {module: name for name, module in others.items()}
    linear = [name for name, module in model.named_modules() if structure.is_linear(module)]
    outside = [name for name in linear if not name.startswith(in_blocks) and name not in {*layers, *embeddings}]
    return RecodedLayers(
        base=base_grid(grids, embeddings),
        grids=grids,
        embeddings=embeddings,
        left=tuple(name for name, module in others.items() if module.startswith(in_blocks)),
        # Some readers look for a layer by its name in the file, others by that in the model.
        outside=tuple({**{in_file.get(name, name): name for name in outside}, **dict.fromkeys(outside, "")}),
        whole=whole,
        options=options,
    )
