"""Read and write the `quantization_config` of compressed-tensors checkpoints: schemes, their targets, what is ignored.

Source: compressed-tensors 0.20, quantization/quant_config.py, quant_scheme.py, quant_args.py and utils/match.py.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError
from qtoolkit.formats.compressed_tensors import BYTES, MIXED, NAIVE, PACKED, QUANT_METHOD, WIDTHS
from qtoolkit.formats.compressed_tensors.schemes import LINEAR, Scheme, Schemes
from qtoolkit.formats.grouped import Grid
from qtoolkit.formats.name_patterns import shortest
from qtoolkit.formats.origin import ORIGIN, read_origin

_WHERE = "load it with transformers and compressed-tensors, or vLLM, or name the full-precision model"


def describe(
    base: Grid,
    quantized: Mapping[str, Grid],
    ignored: Iterable[str],
    embeddings: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint.

    With one grid, the only scheme targets every linear layer that is not ignored. With several, each targets its layers
    by their names alone: vLLM looks for the class before it looks for the members of a fused layer.

    Args:
        base: the grid of the first scheme.
        quantized: grids of the quantized layers by their full names in the file.
        ignored: full names of all other linear layers.
        embeddings: the configs of the token embedding and the output head by their full names, where these are
            quantized: a scheme of their own targets their names.
        origin: the method's name and options, where readers cannot tell them from the schemes; they skip such a key.
    """
    grids = sorted({*quantized.values(), base}, key=lambda grid: (grid != base, grid.bits, grid.group_size))
    groups = {}
    for index, grid in enumerate(grids):
        same = {name for name, own in quantized.items() if own == grid}
        targets = [LINEAR]
        if len(grids) > 1:
            ends = "|".join(re.escape(name) for name in sorted(shortest(same, set(quantized) - same)))
            targets = [rf"re:^(?:.*\.)?(?:{ends})$"] if same else []
        groups[f"group_{index}"] = _described(grid, targets)
    for own in embeddings.values():
        # One scheme for all: they have the same width, and so the same groups.
        groups[f"group_{len(grids)}"] = _described(own, sorted(embeddings))
    return {
        "quant_method": QUANT_METHOD,
        "format": BYTES[base.kind] if base.in_bytes else PACKED,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": sorted(ignored),
        "config_groups": groups,
        # Without it, transformers 5.23 fails at zero points; it decompresses when it loads then. With quantized
        # embeddings it would load, and compute something else.
        **({} if base.sym or embeddings else {"run_compressed": False}),
        **({} if origin is None else {ORIGIN: dict(origin)}),
    }


def _described(grid: Any, targets: list[str]) -> dict[str, Any]:
    """Return one scheme of `config_groups`; `grid` is a `Grid`, or a config that has its first fields."""
    block = getattr(grid, "block", None)
    strategy = "block" if block else "channel" if grid.group_size == -1 else "group"
    weights = {
        "num_bits": grid.bits,
        "type": getattr(grid, "kind", "int"),
        "symmetric": grid.sym,
        "strategy": strategy,
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "block_structure": block and list(block),
        "dynamic": False,
        "actorder": "static" if grid.order == "activation" else None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    inputs = _described_inputs(grid) if getattr(grid, "in_bytes", False) else None
    return {"targets": targets, "weights": weights, "input_activations": inputs, "output_activations": None}


def _described_inputs(grid: Grid) -> dict[str, Any]:
    """Return how inputs are rounded: to the kind of the weights, for each token, or for its inputs in a block."""
    return {
        "num_bits": grid.bits,
        "type": grid.kind,
        "symmetric": True,
        "strategy": "group" if grid.block else "token",
        "group_size": grid.block[1] if grid.block else None,
        "block_structure": None,
        "dynamic": True,
        "actorder": None,
        "observer": None,
        "observer_kwargs": {},
    }


def read_schemes(values: Mapping[str, Any]) -> Schemes:
    """Read a `quantization_config`.

    Raises:
        CheckpointError: a value that no such checkpoint can have.
        UnsupportedModelError: a format, or an option, that is not supported here.
    """
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise CheckpointError(f"the config has config_groups {groups!r:.40}: it must be an object of schemes")
    _only(values, "format", (PACKED, *BYTES.values(), NAIVE, MIXED, None))
    _only(values, "kv_cache_scheme", (None,))
    _only(values, "quantization_status", ("compressed", "frozen", None))
    for key in ("sparsity_config", "transform_config"):
        if values.get(key):
            raise UnsupportedModelError(f"compressed-tensors with {key} is not read here: {_WHERE}")
    schemes = tuple(_scheme(name, group, values.get("format")) for name, group in groups.items())
    orders = {group["weights"].get("actorder") for group in groups.values()}
    return Schemes(
        schemes,
        _names(values.get("ignore") or [], "ignore"),
        by_activation=None if orders == {None} else bool(orders & {"weight", "static"}),
    )


def has_embeddings(values: Mapping[str, Any]) -> bool:
    """Check whether a `quantization_config` names quantized embeddings; false for one that is not read here."""
    try:
        return read_schemes(values).embeddings is not None
    except QToolkitError:
        return False


def origin_of(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and options of the method that a `quantization_config` names; None where it names none.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_origin` and `read_schemes`.
    """
    return read_origin(values, lambda: {scheme.bits for scheme in read_schemes(values).schemes if scheme.targets})


def bits_by_scheme(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the bits of quantized layers by their names; empty for a config that is not read here.

    Args:
        values: a `quantization_config`, which anybody may have written.
        names: of their tensors of codes, "model.layers.0.mlp.down_proj.weight_packed".
    """
    try:
        schemes = read_schemes(values)
    except QToolkitError:
        return {}
    layers = (name.rpartition(".")[0] for name in names)
    found = ((name, schemes.of((name,), (LINEAR,))) for name in layers)
    return {name: scheme.bits for name, scheme in found if scheme is not None}


def method_of(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name and options of the method that chooses codes as in the first scheme of a `quantization_config`.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`; also groups smaller than 32, and 7 bits.
    """
    schemes = read_schemes(values)
    first = schemes.schemes[0]
    if first.in_bytes and first.kind == "int":
        return "w8a8", {}
    if first.in_bytes:
        return "fp8", {"granularity": "block" if first.block else "channel"}
    if 0 < first.group_size < 32 or first.bits == 7:
        what = f"groups of {first.group_size}" if first.bits != 7 else "7 bits"
        raise UnsupportedModelError(f"compressed-tensors with {what} is not read here: {_WHERE}")
    options = {
        "format": QUANT_METHOD,
        "bits": first.bits,
        "group_size": first.group_size,
        "sym": first.symmetric,
    }
    if schemes.embeddings is not None:
        options["embeddings"] = schemes.embeddings.bits
    if schemes.by_activation is not None:
        options["order"] = "activation" if schemes.by_activation else "natural"
    return "gptq", options


def _scheme(name: str, group: Any, stored_as: str | None) -> Scheme:
    """Return one scheme of `config_groups`; `stored_as` is the format of those that name none."""
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise CheckpointError(f"config_groups has {name!r:.40} without weights: it must say how these are quantized")
    _only(group, "output_activations", (None,))
    _only(group, "format", (PACKED, *BYTES.values(), NAIVE, None))
    weights = group["weights"]
    targets = _names(group.get("targets"), "targets")
    _only(weights, "dynamic", (False, None))
    if stored_as == MIXED and not group.get("format"):
        raise CheckpointError(
            f"the config has format {MIXED!r}, and config_groups {name!r:.40} names no format of its own"
        )
    if (group.get("format") or stored_as or PACKED) != PACKED:
        return _byte_scheme(group, weights, targets)
    _only(group, "input_activations", (None,))
    _only(weights, "type", ("int",))
    _only(weights, "actorder", (None, "weight", "static"))
    _only(weights, "strategy", ("group", "channel"))
    bits = _value(weights, "num_bits", int)
    if bits not in WIDTHS:
        raise UnsupportedModelError(f"compressed-tensors is read with 2 to 8 bits, not {bits}: {_WHERE}")
    group_size = -1
    if weights["strategy"] == "group":
        group_size = _value(weights, "group_size", int)
        if group_size < 1:
            raise CheckpointError(f"the config has group_size {group_size}: it must be at least 1")
    symmetric = _value({"symmetric": True, **weights}, "symmetric", bool)
    return Scheme(bits, group_size, symmetric, targets)


def _byte_scheme(group: Mapping[str, Any], weights: Mapping[str, Any], targets: tuple[str, ...]) -> Scheme:
    """Return a scheme whose codes take a byte each."""
    _only(weights, "type", ("int", "float"))
    _only(weights, "num_bits", (8,))
    _only(weights, "symmetric", (True,))
    _only(weights, "actorder", (None,))
    kind = weights["type"]
    block = None
    _only(weights, "strategy", ("channel", "block") if kind == "float" else ("channel",))
    if weights["strategy"] == "block":
        block = weights.get("block_structure")
        if not isinstance(block, list) or len(block) != 2 or any(type(size) is not int or size < 1 for size in block):
            raise CheckpointError(f"the config has block_structure {block!r:.40}: it must be two whole numbers from 1")
        if block != [128, 128]:
            raise UnsupportedModelError(f"compressed-tensors with blocks of {block} is not read here: {_WHERE}")
        block = (128, 128)
    inputs = group.get("input_activations")
    if not isinstance(inputs, dict):
        raise UnsupportedModelError(
            f"compressed-tensors of 8 bits without input_activations is not read here: {_WHERE}"
        )
    _only(inputs, "num_bits", (8,))
    _only(inputs, "type", (kind,))
    _only(inputs, "dynamic", (True,))
    _only(inputs, "symmetric", (True,))
    _only(inputs, "strategy", ("group",) if block else ("token",))
    _only(inputs, "group_size", (block[1],) if block else (None,))
    return Scheme(8, -1, symmetric=True, targets=targets, kind=kind, in_bytes=True, block=block)


def _only(values: Mapping[str, Any], key: str, supported: tuple[Any, ...]) -> None:
    """Refuse a value that is not supported here."""
    value = values.get(key)
    if not any(value is one or (type(value) is type(one) and value == one) for one in supported):
        raise UnsupportedModelError(f"compressed-tensors with {key} {value!r:.60} is not read here: {_WHERE}")


def _value(values: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return the value of a key; refuse another type."""
    value = values.get(key)
    if type(value) is not kind:
        described = {int: "a whole number", bool: "true or false"}[kind]
        raise CheckpointError(f"the config has {key} {value!r:.40}: it must be {described}")
    return value


def _names(values: Any, key: str) -> tuple[str, ...]:
    """Return a list of names and patterns; refuse anything else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise CheckpointError(f"the config has {key} {values!r:.40}: it must be a list of names")
    for value in values:
        try:
            re.compile(value.removeprefix("re:") if value.startswith("re:") else "")
        except re.error as error:
            raise CheckpointError(f"the config has {key} {value!r:.60}, no regular expression: {error}") from error
    return tuple(values)
