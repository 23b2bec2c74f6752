"""Find how another format stores the codes of a quantized checkpoint, or which formats do, before any work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.formats import (
    OUT_OF_ORDER,
    Grid,
    GroupedFormat,
    LayersFormat,
    RecodedLayers,
    base_grid,
    conversion_targets,
)
from qtoolkit.formats.recoding import RecodedTensors
from qtoolkit.jobs.convertible import Convertible, block_prefix, build_layers, config_entries_of
from qtoolkit.methods import LinearMethod, get_method
from qtoolkit.models import structure
from qtoolkit.models.experts import experts_in_one_tensor
from qtoolkit.models.renaming import matrices_in_file

_ASYMMETRIC = "asymmetric codes"
_ROUNDING = "lossy=True (minima of groups are rounded)"


@dataclass(frozen=True)
class Recoded:
    """How another format stores all layers of a checkpoint.

    Attributes:
        format, layout: the format, and its way to pack codes.
        tensors: of each quantized layer, by the names of the model's modules.
        values: the `quantization_config`.
        left: names in the file of the matrices in the blocks that are not quantized.
        notes: what was decided, one line each.
        lossy: whether zero points become rounded minima.
    """

    format: GroupedFormat | LayersFormat
    layout: str
    tensors: Mapping[str, RecodedTensors]
    values: dict[str, Any]
    left: tuple[str, ...]
    notes: tuple[str, ...] = ()
    lossy: bool = False

    @property
    def config_entries(self) -> dict[str, Any]:
        """Return the entries of `config.json` that describe the quantization."""
        return config_entries_of(self.format, self.values)


def recode(source: Convertible, target: GroupedFormat | LayersFormat, layout: str, *, lossy: bool = False) -> Recoded:
    """Find how a format stores all codes of a checkpoint: unchanged, but for minima that may be rounded if `lossy`.

    Raises:
        ConfigError: it does not hold them, or has them already; the message names formats that hold them.
    """
    name = source.checkpoint.name
    if (target.name, layout) == (source.format, source.layout):
        raise ConfigError(f"{name} is stored as {layout} already: name another format")
    if lossy and not (isinstance(target, GroupedFormat) and target.rounds_minima):
        raise ConfigError(f"format {layout!r} rounds nothing: leave lossy out")
    if isinstance(target, LayersFormat):
        return _as_layers(source, target)
    rounded = _is_rounded(source, target)
    if reason := _reason_against(source, target, layout, lossy=lossy):
        rounds = rounded and not lossy and reason.startswith(_ASYMMETRIC)
        raise refusal(source, layout, reason, [_ROUNDING] if rounds else [])
    usual = target.scale_dtype_of(source.checkpoint.dtype)
    dtype = _scale_dtype(source, target, usual)
    if dtype is None:
        raise refusal(source, layout, "scales that no type holds")
    tensors = {name: target.recoded(codes, layout, dtype) for name, codes in source.layers.items()}
    described = _describe(source, tensors)
    values = _values(source, described, target, layout)
    if values is None:
        raise refusal(source, layout, f"codes of method {source.config.method!r}")
    notes = [*_notes(source, tensors, dtype, usual)]
    if lossy and not rounded:
        notes.append("lossy: nothing is rounded, since all codes are symmetric")
    notes += inputs_notes(source)
    return Recoded(target, layout, tensors, values, described.left, tuple(notes), lossy=rounded)


def inputs_notes(source: Convertible) -> list[str]:
    """Return what a result does not take over of how inputs are rounded."""
    if not source.config.input_type:
        return []
    return ["inputs of its layers are no longer rounded: the codes are those of weights alone"]


def _values(source: Convertible, described: RecodedLayers, target: GroupedFormat, layout: str) -> dict[str, Any] | None:
    """Return the `quantization_config` of a format; None where it cannot tell which method chose the codes."""
    values = target.describe_recoded(described, layout)
    if not source.is_named or (own := source.config.stored_in(target.name, lossy=_is_rounded(source, target))) is None:
        is_its = _method_in(target, values) == source.config.method
        return values if is_its or not source.is_named else None
    if _method_in(target, values) == own.method:
        return values
    origin = {"method": own.method, "options": own.to_file()}
    values = target.describe_recoded(replace(described, origin=origin), layout)
    return values if _method_in(target, values) == own.method else None


def _method_in(target: GroupedFormat, values: Mapping[str, Any]) -> str:
    """Return the method that a `quantization_config` tells; empty where none of ours makes such codes."""
    try:
        return target.method_of(values)[0]
    except UnsupportedModelError:
        return ""


def _takes_all(source: Convertible, target: GroupedFormat, layout: str) -> bool:
    """Check whether a format holds all codes, and tells which method chose them."""
    if _reason_against(source, target, layout, lossy=False):
        return False
    tensors = {name: target.recoded(codes, layout, torch.float32) for name, codes in source.layers.items()}
    return _values(source, _describe(source, tensors), target, layout) is not None


def _as_layers(source: Convertible, target: LayersFormat) -> Recoded:
    """See `recode`: a format whose layers their method builds."""
    own = source.config.stored_in(target.name)
    method = get_method(source.config.method if own is None else own.method)
    if own is None or not isinstance(method, LinearMethod):
        raise refusal(source, target.name, f"codes of method {source.config.method!r}")
    tensors = dict(build_layers(method, own, source.model, source.layers))
    for name, codes in source.layers.items():
        stored = tensors[name]
        if stored is None or (stored.bits, stored.centered) != (codes.bits, codes.sym) or not codes.in_order:
            raise refusal(source, target.name, f"other codes than its config says ({codes.name})")
        dtype = stored.tensors()[stored.scale_name][1]
        if dtype not in codes.scale_dtypes:
            raise refusal(source, target.name, f"scales that are not exact in {_words(dtype)} ({codes.name})")
    values = target.quantization_config(method.name, own.to_file(), list(source.layers)).to_dict()
    return Recoded(target, target.name, tensors, values, _describe(source, tensors).left)


def _is_rounded(source: Convertible, target: GroupedFormat) -> bool:
    """Check whether a format stores rounded minima of some codes."""
    return target.rounds_minima and not all(codes.sym for codes in source.layers.values())


def _reason_against(source: Convertible, target: GroupedFormat, layout: str, *, lossy: bool) -> str:
    """Return what a format cannot store, and of which layer; empty where it holds all codes."""
    # First those that make the others stored as asymmetric, so that the reason names one of these.
    layers = sorted(source.layers.values(), key=lambda codes: codes.is_centered)
    found = [(target.reason_against(codes, layout), codes.name) for codes in layers]
    if target.rounds_minima and not lossy:
        # Last, so that what no rounding helps is said first.
        found += [("" if codes.sym else _ASYMMETRIC, codes.name) for codes in layers]
    return next((f"{reason} ({name})" for reason, name in found if reason), "")


def refusal(source: Convertible, layout: str, reason: str, ways: Sequence[str] = ()) -> ConfigError:
    """Return the error of a format that does not hold the codes, which names those that do.

    Args:
        source: the checkpoint.
        layout: what was asked for.
        reason: what about the codes is not held.
        ways: what would hold them in this format, each a phrase that goes on from "give".
    """
    lacks = f"{source.checkpoint.name} has {reason}, which format {layout!r} does not hold"
    if reason.startswith(OUT_OF_ORDER):
        # The other layout of the source's format would hold them, for none of the programs that read the one asked for.
        return ConfigError(f"{lacks}: quantize the full-precision model in that format")
    others = [
        *ways,
        *(
            f"format={name!r}"
            for name, (target, own) in conversion_targets().items()
            if isinstance(target, GroupedFormat)
            and (target.name, own) != (source.format, source.layout)
            and name != layout
            and _takes_all(source, target, own)
        ),
    ]
    way = f"give {' or '.join(others)}" if others else f"only its own, {source.layout}, does"
    return ConfigError(f"{lacks}: {way}")


def _scale_dtype(source: Convertible, target: GroupedFormat, usual: torch.dtype) -> torch.dtype | None:
    """Return the type in which all scales are exact: the usual one, or else the source's own, or float32.

    None where the format would hold them in none of these.
    """
    layers = source.layers.values()
    every = (usual, *(codes.scale_dtype for codes in layers), torch.float32)
    return next((dtype for dtype in every if all(target.holds_scales(codes, dtype) for codes in layers)), None)


def _notes(
    source: Convertible, tensors: Mapping[str, RecodedTensors], dtype: torch.dtype, usual: torch.dtype
) -> Iterator[str]:
    """Return notes on scales of another type than the usual one, and on those that are repeated."""
    if dtype != usual:
        most = max(codes.scale_errors[usual] for codes in source.layers.values())
        change = f"round them, by up to {100 * most:.2g} %" if most < torch.inf else "make some of them infinite"
        yield (
            f"scales are stored in {_words(dtype)}, since not all are exact in {_words(usual)}: programs that read "
            f"them in {_words(usual)} {change}"
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
    in_blocks = block_prefix(model)
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
    outside += sorted(experts_in_one_tensor(model, layers))
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
