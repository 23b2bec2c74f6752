"""The configs of the two textbook methods, absmax and zero-point, and the group sizes that fit a layer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Grid, GroupedFormat, Layer, check_embeddings, get_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.mixed_precision import MixedBits
from qtoolkit.requests import option

# What readers of other formats take: the smallest group, and the groups where the given one does not divide.
SMALLEST_GROUP = 32
_GROUPS = (128, 64, 32)
_EMBEDDING_BITS = (8, 4)


_FORMAT_HELP = (
    "how the codes are stored: compressed-tensors, where it holds all layers, which transformers, vLLM and SGLang read "
    "(with zero points not transformers 4); native is read with qtoolkit alone; mlx is that of Macs; gptq is for older "
    "servers, and zero points get there by qt.convert alone"
)


@dataclass(frozen=True, kw_only=True)
class AffineConfig(MixedBits):
    """Base of the configs of absmax and zero-point.

    Attributes:
        sym: whether its codes are symmetric.
    """

    sym: ClassVar[bool]

    bits: int = option(8, choices=(8, 4), help="size of a code", unit="bits per weight", per_layer=True)
    granularity: str = option(
        "tensor",
        choices=("tensor", "channel", "group"),
        help="what shares one scale: the whole weight, an output, a group",
        per_layer=True,
    )
    group_size: int = option(
        64, help="with granularity group, inputs of one output that share a scale", unit="weights", per_layer=True
    )

    embeddings: int | None = option(
        None,
        help="size of a code of the token embedding and the output head, 8 or 4, where the format holds them",
        unit="bits per weight",
        empty="they stay as they are",
        absent=None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.group_size < 2 or self.group_size % 2:
            raise ConfigError(f"{name}: group_size must be an even number from 2, got {self.group_size}")
        if self.embeddings not in (None, *_EMBEDDING_BITS):
            raise ConfigError(f"{name}: embeddings must be 8 or 4, or left out, got {self.embeddings}")
        check_embeddings(self)
        if self.stored_as is not None:
            self.stored_as.check(self)
        if self.embeddings is not None and self.target is not None:
            raise ConfigError(
                f"{name}: a target gives bits to layers in blocks alone: leave out embeddings, or target_bits and "
                "target_size"
            )

    @classmethod
    def from_typed(cls, values: Mapping[str, Any]) -> Self:
        """See `MethodConfig.from_typed`: a group size is that of groups alone."""
        config = super().from_typed(values)
        if "group_size" in values and config.granularity != "group" and not config.rules:
            raise ConfigError(
                f"{cls.__name__}: group_size is without effect beside granularity {config.granularity!r}: give "
                "granularity='group', or leave group_size out"
            )
        return config

    @property
    def stored_as(self) -> GroupedFormat | None:
        """Return the format of other programs that stores the codes; None for qtoolkit's own."""
        stored_as = get_format(self.format)
        return stored_as if isinstance(stored_as, GroupedFormat) else None

    def for_embeddings(self, width: int) -> "AbsMax":
        """Return the config of an embedding of this width: symmetric codes, which alone are looked up by programs.

        They are in groups of 64, or 32 where 64 does not divide the width.
        """
        assert self.embeddings is not None
        full_range = isinstance(self, AbsMax) and self.full_range
        size = 64 if width % 64 == 0 else SMALLEST_GROUP
        return AbsMax(
            bits=self.embeddings, granularity="group", group_size=size, format=self.format, full_range=full_range
        )

    def grid(self, layer: Layer) -> Grid:
        """Return how a format of other programs spaces the codes of a layer.

        One scale for a tensor is repeated for its outputs, and one for an output for its groups where the format has
        no other.
        """
        size = fitting_group_size(layer, self)
        if size == -1 and self.stored_as is not None and self.stored_as.group_sizes:
            size = next(size for size in _GROUPS if layer.in_features % size == 0)
        return Grid(self.bits, size, self.sym)


@dataclass(frozen=True, kw_only=True)
class AbsMax(AffineConfig):
    """Symmetric rounding: scale = max|w| / (2**(bits-1) - 1), code = round(w / scale)."""

    method: ClassVar[str] = "absmax"
    sym: ClassVar[bool] = True

    format: str = option(  # type: ignore[misc]
        "compressed-tensors",
        choices=("compressed-tensors", "native", "mlx", "gptq"),
        help=_FORMAT_HELP,
        absent="native",
    )

    full_range: bool = option(
        False,
        help="use the code -2**(bits-1) too, with scales of either sign: a finer step, by an eighth with 4 bits",
        absent=False,
    )


@dataclass(frozen=True, kw_only=True)
class ZeroPoint(AffineConfig):
    """Asymmetric rounding: scale = (max - min) / (q_max - q_min), zero_point = round(q_min - min / scale)."""

    method: ClassVar[str] = "zero_point"
    sym: ClassVar[bool] = False

    format: str = option(  # type: ignore[misc]
        "native",
        choices=("native", "compressed-tensors", "mlx", "gptq"),
        help=_FORMAT_HELP,
        absent="native",
    )

    lossy: bool = option(
        False,
        help="let mlx round the minimum of each group, which it stores instead of a zero point",
        absent=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lossy and self.format != "mlx":
            raise ConfigError(f"ZeroPoint: format {self.format!r} loses nothing: leave lossy out, or give format='mlx'")


def stored_natively(config: AffineConfig) -> AffineConfig:
    """Return a config whose codes qtoolkit's own format stores."""
    # The base has no such field: each of its configs has its own default.
    changes: dict[str, Any] = {"format": MethodConfig.format}
    return replace(config, **changes)


def fitting_group_size(layer: Layer, config: AffineConfig) -> int:
    """Return the config's group size, or the largest even one below it that divides the layer's inputs.

    In a format of other programs, one of those that kernels take. -1 where the granularity is not "group".
    """
    if config.granularity != "group":
        return -1
    stored_as = config.stored_as
    held = (config.group_size,) if stored_as is None else stored_as.group_sizes or (config.group_size,)
    if stored_as is not None and (layer.in_features % config.group_size or config.group_size not in held):
        # Inputs are multiples of the last.
        return next(size for size in _GROUPS if size <= config.group_size and layer.in_features % size == 0)
    sizes = range(config.group_size, 1, -1)
    return next((size for size in sizes if size % 2 == 0 and layer.in_features % size == 0), layer.in_features)
