"""Read and write the `quantization_config` of compressed-tensors checkpoints: schemes, their targets, what is ignored.

Source: compressed-tensors 0.20, quantization/quant_config.py, quant_scheme.py, quant_args.py and utils/match.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError
from qtoolkit.formats.compressed_tensors import PACKED, QUANT_METHOD, WIDTHS
from qtoolkit.formats.grouped import Grid
from qtoolkit.formats.name_patterns import shortest
from qtoolkit.formats.origin import ORIGIN, read_origin

# Class names that stand for every linear layer.
_LINEAR = "Linear"
_WHERE = "load it with transformers and compressed-tensors, or vLLM, or name the full-precision model"


@dataclass(frozen=True)
class Scheme:
    """How the weights of some layers are stored.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale, -1 for all of them.
        symmetric: whether no zero points are stored.
        targets: names, "re:" and a regular expression that matches from the start of a name, or classes of modules.
    """

    bits: int
    group_size: int
    symmetric: bool
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Schemes:
    """Everything that a `quantization_config` says of layers.

    Attributes:
        schemes: in the order of the config.
        ignore: layers that are not quantized, as in `Scheme.targets`.
        by_activation: whether columns were done by activation; None where the config does not say.
    """

    schemes: tuple[Scheme, ...]
    ignore: tuple[str, ...]
    by_activation: bool | None = None

    @property
    def embeddings(self) -> Scheme | None:
        """Return the scheme of token embedding and output head; None where these are not quantized.

        It is the last one, and targets them by their names, as `describe` writes it.
        """
        last = self.schemes[-1]
        named = bool(last.targets) and not any(one == _LINEAR or one.startswith("re:") for one in last.targets)
        return last if named and len(self.schemes) > 1 else None

    def of(self, names: tuple[str, ...], classes: tuple[str, ...]) -> Scheme | None:
        """Return the scheme of a layer; None where it is not quantized.

        Exact names come first, then regular expressions, each sorted as text, then classes.

        Args:
            names: its name in the file, and others that it may be called by.
            classes: the names of its class and of the classes of that.
        """
        if any(_matches(target, names) or target in classes for target in self.ignore):
            return None
        of_target = {target: scheme for scheme in self.schemes for target in scheme.targets}
        targets = sorted(of_target, key=lambda target: (target.startswith("re:"), target))
        found = [target for target in targets if _matches(target, names)]
        found += [target for target in targets if target in classes]
        return of_target[found[0]] if found else None


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
        targets = [_LINEAR]
        if len(grids) > 1:
            ends = "|".join(re.escape(name) for name in sorted(shortest(same, set(quantized) - same)))
            targets = [rf"re:^(?:.*\.)?(?:{ends})$"] if same else []
        groups[f"group_{index}"] = _described(grid, targets)
    for own in embeddings.values():
        # One scheme for all: they have the same width, and so the same groups.
        groups[f"group_{len(grids)}"] = _described(own, sorted(embeddings))
    return {
        "quant_method": QUANT_METHOD,
        "format": PACKED,
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
    """Return one scheme of `config_groups`; `grid` is a `Grid`, or a config that has the same fields."""
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.sym,
        "strategy": "channel" if grid.group_size == -1 else "group",
        "group_size": None if grid.group_size == -1 else grid.group_size,
        "block_structure": None,
        "dynamic": False,
        "actorder": "static" if grid.order == "activation" else None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None}


def read_schemes(values: Mapping[str, Any]) -> Schemes:
    """Read a `quantization_config`.

    Raises:
        CheckpointError: a value that no such checkpoint can have.
        UnsupportedModelError: a format, or an option, that is not supported here.
    """
    groups = values.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise CheckpointError(f"the config has config_groups {groups!r:.40}: it must be an object of schemes")
    _only(values, "format", (PACKED, None))
    _only(values, "kv_cache_scheme", (None,))
    _only(values, "quantization_status", ("compressed", "frozen", None))
    for key in ("sparsity_config", "transform_config"):
        if values.get(key):
            raise UnsupportedModelError(f"compressed-tensors with {key} is not read here: {_WHERE}")
    schemes = tuple(_scheme(name, group) for name, group in groups.items())
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
    found = ((name, schemes.of((name,), (_LINEAR,))) for name in layers)
    return {name: scheme.bits for name, scheme in found if scheme is not None}


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method's config that a `quantization_config` contains: those of its first scheme.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`; also groups smaller than 32, and 7 bits.
    """
    schemes = read_schemes(values)
    first = schemes.schemes[0]
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
    return options


def _scheme(name: str, group: Any) -> Scheme:
    """Return one scheme of `config_groups`."""
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise CheckpointError(f"config_groups has {name!r:.40} without weights: it must say how these are quantized")
    for key in ("input_activations", "output_activations"):
        _only(group, key, (None,))
    _only(group, "format", (PACKED, None))
    weights = group["weights"]
    _only(weights, "type", ("int",))
    _only(weights, "dynamic", (False, None))
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
    return Scheme(bits, group_size, symmetric, _names(group.get("targets"), "targets"))


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


def _matches(target: str, names: tuple[str, ...]) -> bool:
    """Check whether a target names a layer, or matches one of its names from the start."""
    if target.startswith("re:"):
        return any(re.match(target.removeprefix("re:"), name) for name in names)
    return target in names
