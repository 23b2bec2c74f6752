"""Read and write what the config of an MLX checkpoint says: bits and groups, and the layers that have others.

Source: mlx-lm 0.32, utils.py, `load_model`: a layer is quantized if the file has its scales; an entry of its name says
how, and otherwise the default.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qtoolkit.errors import CheckpointError, QToolkitError, UnsupportedModelError
from qtoolkit.formats.grouped import Grid
from qtoolkit.formats.mlx import GROUP_SIZES, QUANT_METHOD, WIDTHS
from qtoolkit.formats.origin import ORIGIN, read_origin

_WHERE = "load it with mlx-lm"
_MODE = "affine"
# The key of `config.json` that MLX reads; transformers reads `quantization_config`.
QUANTIZATION = "quantization"
# The key of the layers whose minima are those of symmetric codes, where not all are: known before they are read.
SYMMETRIC = "symmetric"


@dataclass(frozen=True)
class Scheme:
    """How the weight of a layer is stored.

    Attributes:
        bits: size of a code.
        group_size: inputs that share a scale.
    """

    bits: int
    group_size: int


@dataclass(frozen=True)
class Schemes:
    """Everything that a config says of layers.

    Attributes:
        default: of the layers that are not named.
        named: of those that are, by their names in the file.
        left: names of the layers that the config says are not quantized.
        symmetric: names of the layers whose codes are symmetric; None for all.
    """

    default: Scheme
    named: Mapping[str, Scheme]
    left: frozenset[str] = frozenset()
    symmetric: frozenset[str] | None = None

    @property
    def embeddings(self) -> Scheme | None:
        """Return the scheme of token embedding and output head, which have no block's number; None without one."""
        outside = (
            scheme for name, scheme in self.named.items() if not any(part.isdecimal() for part in name.split("."))
        )
        return next(outside, None)

    def is_symmetric(self, name: str) -> bool:
        """Check whether the codes of a layer are symmetric, by its name in the file."""
        return self.symmetric is None or name in self.symmetric

    def of(self, name: str) -> Scheme | None:
        """Return the scheme of a layer that has scales, by its name in the file; None where it must have none."""
        return None if name in self.left else self.named.get(name, self.default)


def describe(
    base: Grid,
    quantized: Mapping[str, Grid],
    embeddings: Mapping[str, Any],
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the `quantization_config` of a checkpoint, for transformers.

    Args:
        base: the grid of the layers that are not named.
        quantized: grids of the quantized layers by their full names in the file.
        embeddings: the configs, or grids, of the token embedding and the output head by their full names, where these
            are quantized.
        origin: the method's name and options, where bits and groups do not tell them.
    """
    usual = (base.group_size, base.bits)
    others = {name: own for name, own in sorted(quantized.items()) if (own.group_size, own.bits) != usual}
    named = {**others, **dict(sorted(embeddings.items()))}
    every = {**quantized, **embeddings}
    is_symmetric = base.sym and all(own.sym for own in every.values())
    symmetric = None if is_symmetric else sorted(name for name, own in every.items() if own.sym)
    return {
        "quant_method": QUANT_METHOD,
        "group_size": base.group_size,
        "bits": base.bits,
        "mode": _MODE,
        **{name: {"group_size": own.group_size, "bits": own.bits} for name, own in named.items()},
        **({} if symmetric is None else {SYMMETRIC: symmetric}),
        **({} if origin is None else {ORIGIN: dict(origin)}),
    }


def for_mlx(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MLX reads, from a `quantization_config`: bits, groups, mode and names."""
    return {key: value for key, value in values.items() if key not in ("quant_method", SYMMETRIC, ORIGIN)}


def read_schemes(values: Mapping[str, Any]) -> Schemes:
    """Read a `quantization_config`.

    Raises:
        CheckpointError: a value that no such checkpoint can have.
        UnsupportedModelError: another mode than affine.
    """
    named = {name: value for name, value in values.items() if isinstance(value, dict) and name != ORIGIN}
    symmetric = values.get(SYMMETRIC)
    if symmetric is not None and not (isinstance(symmetric, list) and all(isinstance(one, str) for one in symmetric)):
        raise CheckpointError(f"the config has {SYMMETRIC} {symmetric!r:.40}: it must be a list of names")
    return Schemes(
        _scheme("the config", values),
        {name: _scheme(f"the config's {name!r:.120}", value) for name, value in named.items()},
        frozenset(name for name, value in values.items() if value is False),
        None if symmetric is None else frozenset(symmetric),
    )


def check_both(theirs: Any, values: Mapping[str, Any]) -> None:
    """Refuse a config whose entry for MLX says something else than the one for transformers.

    Args:
        theirs: the value of `quantization`; None where it is missing.
        values: the `quantization_config`.

    Raises:
        CheckpointError: they differ.
    """
    if theirs != for_mlx(values):
        raise CheckpointError(
            "config.json says one thing in `quantization`, which MLX reads, and another in `quantization_config`: "
            "get the one that the model was saved with"
        )


def origin_of(values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name and options of the method that a `quantization_config` names; None where it names none.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_origin` and `read_schemes`.
    """

    def stored_bits() -> set[int]:
        schemes = read_schemes(values)
        return {schemes.default.bits, *(scheme.bits for scheme in schemes.named.values())}

    return read_origin(values, stored_bits)


def options_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method's config that a `quantization_config` contains.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_schemes`.
    """
    schemes = read_schemes(values)
    options = {
        "format": QUANT_METHOD,
        "bits": schemes.default.bits,
        "group_size": schemes.default.group_size,
        "sym": schemes.symmetric is None,
        **({} if schemes.symmetric is None else {"lossy": True}),
    }
    return options if schemes.embeddings is None else options | {"embeddings": schemes.embeddings.bits}


def bits_by_scheme(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Return the bits of quantized layers by their names; empty for a config that is not read here.

    Args:
        values: a `quantization_config`, which anybody may have written.
        names: of their scales, "model.layers.0.mlp.down_proj.scales".
    """
    try:
        schemes = read_schemes(values)
    except QToolkitError:
        return {}
    found = ((name.rpartition(".")[0], schemes.of(name.rpartition(".")[0])) for name in names)
    return {name: scheme.bits for name, scheme in found if scheme is not None}


def _scheme(where: str, values: Mapping[str, Any]) -> Scheme:
    """Return the scheme that an object of the config describes."""
    mode = values.get("mode", _MODE)
    if mode != _MODE:
        raise UnsupportedModelError(f"{where} has mode {mode!r:.40}, and MLX is read in affine alone: {_WHERE}")
    return Scheme(_one_of(where, values, "bits", WIDTHS), _one_of(where, values, "group_size", GROUP_SIZES))


def _one_of(where: str, values: Mapping[str, Any], key: str, allowed: tuple[int, ...]) -> int:
    """Return the value of a key; refuse one that MLX does not know."""
    value = values.get(key)
    if type(value) is not int or value not in allowed:
        listed = f"{', '.join(map(str, allowed[:-1]))} or {allowed[-1]}"
        raise CheckpointError(f"{where} has {key} {value!r:.40}: MLX has {listed}")
    return value
