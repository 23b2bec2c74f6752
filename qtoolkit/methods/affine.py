"""The two textbook methods, absmax and zero-point: integer codes with scales (LLM.int8(), arXiv 2208.07339, section 2).

One scale serves the whole weight, one output, or a group of inputs of one output.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Grid, GroupedFormat, Layer, get_format
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.mixed_precision import MixedConfig
from qtoolkit.methods.weight_only import LinearLayers, LinearMethod
from qtoolkit.records import LayerPlan, Plan
from qtoolkit.requests import option

if TYPE_CHECKING:
    import torch

    from qtoolkit.formats.native.tensors import NativeTensors
    from qtoolkit.formats.stored_layer import GroupedTensors
    from qtoolkit.models.checkpoint import Checkpoint


# What readers of other formats take: the smallest group, and the groups where the given one does not divide.
_SMALLEST_GROUP = 32
_GROUPS = (128, 64, 32)


_FORMAT_HELP = (
    "how the codes are stored: compressed-tensors, where it holds all layers, which transformers, vLLM and SGLang read "
    "(with zero points not transformers 4); native is read with qtoolkit alone"
)


@dataclass(frozen=True, kw_only=True)
class AffineConfig(MixedConfig):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2 or self.group_size % 2:
            raise ConfigError(f"{type(self).__name__}: group_size must be an even number from 2, got {self.group_size}")

    @property
    def stored_as(self) -> GroupedFormat | None:
        """Return the format of other programs that stores the codes; None for qtoolkit's own."""
        stored_as = get_format(self.format)
        return stored_as if isinstance(stored_as, GroupedFormat) else None

    def grid(self, layer: Layer) -> Grid:
        """Return how the codes of a layer are spaced; one scale for a tensor is repeated for its outputs."""
        return Grid(self.bits, fitting_group_size(layer, self), self.sym)


@dataclass(frozen=True, kw_only=True)
class AbsMax(AffineConfig):
    """Symmetric rounding: scale = max|w| / (2**(bits-1) - 1), code = round(w / scale)."""

    method: ClassVar[str] = "absmax"
    sym: ClassVar[bool] = True

    format: str = option(  # type: ignore[misc]
        "compressed-tensors",
        choices=("compressed-tensors", "native"),
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
        choices=("native", "compressed-tensors"),
        help=_FORMAT_HELP,
        absent="native",
    )


class AffineMethod(LinearMethod):
    """Base of absmax and zero-point."""

    recipes = (
        {"bits": 8, "granularity": "channel"},
        *({"bits": 4, "granularity": "group", "group_size": size} for size in (32, 64, 128)),
    )

    def fit(self, layers: tuple[Layer, ...], config: AffineConfig) -> MethodConfig:
        """See `Method`: refuse a group size that divides the inputs of no layer, and choose a format that holds all."""
        inputs: dict[int, set[int]] = defaultdict(set)
        for layer in layers:
            own = config.of(layer.name)
            if own.granularity == "group":
                inputs[own.group_size].add(layer.in_features)
        for group_size, counts in inputs.items():
            if all(count % group_size for count in counts):
                fitting = [size for size in (256, 128, 64, 32, 16, 8) if any(count % size == 0 for count in counts)]
                would = ", ".join(map(str, fitting)) or "no power of two"
                raise ConfigError(
                    f"{type(config).__name__}: group_size {group_size} divides the inputs of no layer "
                    f"({', '.join(map(str, sorted(counts)))}); {would} would"
                )
        return config if all(_holds(config.of(layer.name), layer) for layer in layers) else _native(config)

    def notes(self, config: AffineConfig, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Method`."""
        stored_as = config.stored_as
        return () if stored_as is None else stored_as.notes(config, layers)

    def plan_layer(self, layer: Layer, config: AffineConfig) -> LayerPlan:
        """See `Method`: with 4 bits, skip a layer with an odd number of inputs."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        if config.bits == 4 and layer.in_features % 2:
            return layer.left_alone(
                f"two 4-bit codes share a byte, and it has an odd number of inputs ({layer.in_features})"
            )
        tensors = self._tensors(layer, config)
        stored = stored_bytes(tensors)
        size = fitting_group_size(layer, config)
        changed = config.granularity == "group" and size != config.group_size
        adjusted = f"group_size {size} instead of {config.group_size}, which does not divide" if changed else ""
        # A float32 copy, which becomes the codes in place, and the codes themselves: 5 bytes a weight by the profiler.
        working = 5 * layer.num_weights + stored
        packed = memory_bytes(tensors, device=layer.device)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, adjusted=adjusted, bits=config.bits)

    def rounded(self, weight: "torch.Tensor", layer: Layer, config: AffineConfig) -> "torch.Tensor":
        """See `Method`."""
        codes = self._tensors(layer, config).decode(self.quantize_weight(weight, layer, config))
        return codes.expanded(slice(0, layer.out_features), weight.dtype).T

    def quantize_weight(self, weight: "torch.Tensor", layer: Layer, config: AffineConfig) -> "dict[str, torch.Tensor]":
        """See `LinearMethod`."""
        from qtoolkit.formats.native.tensors import NativeTensors
        from qtoolkit.tensor.rounding import round_weight

        tensors = self._tensors(layer, config)
        _, scale_dtype = tensors.tensors()[tensors.scale_name]
        codes, scale, zero_point = round_weight(
            weight,
            bits=config.bits,
            granularity=config.granularity,
            group_size=fitting_group_size(layer, config),
            symmetric=config.sym,
            full_range=isinstance(config, AbsMax) and config.full_range,
            scale_dtype=scale_dtype,
        )
        if isinstance(tensors, NativeTensors):
            return tensors.store(codes, scale, zero_point)
        return {name: tensor.to(weight.device) for name, tensor in _grouped(tensors, codes, scale, zero_point).items()}

    def build(self, layer: Layer, config: AffineConfig, dtype: "torch.dtype") -> "torch.nn.Module":
        """See `LinearMethod`."""
        from qtoolkit.kernels import QuantizedLinear

        return QuantizedLinear(self._tensors(layer, config), bias=layer.has_bias, dtype=dtype)

    def transformers_config(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> Any:
        """See `WeightOnlyMethod`: a format of other programs names layers as they are called in the file."""
        stored_as = config.stored_as
        if stored_as is None:
            return super().transformers_config(checkpoint, config, plan)
        import torch

        from qtoolkit.models.renaming import matrices_in_file

        # A file whose tensors cannot be read one by one is saved by the names of the model.
        tensors = checkpoint.skeleton.state_dict() if checkpoint.expand else checkpoint.tensors
        named = matrices_in_file(checkpoint.skeleton, tensors)
        names = {layer.name for layer in plan.layers}
        modules = dict(checkpoint.skeleton.named_modules())
        embeddings = {name for name, module in modules.items() if isinstance(module, torch.nn.Embedding)}
        grids = {}
        for stored, name in named.items():
            if name in names:
                layer = Layer.of(name, modules[name], plan.device)
                grids[stored] = config.of(name).grid(layer)
        left = {stored: name for stored, name in named.items() if name not in names | embeddings}
        # Some readers look for a layer by its name in the file, others by that in the model.
        ignored = {*left, *left.values()}
        origin = {"method": self.name, "options": config.to_file()}
        return stored_as.rounding_config(LinearLayers(self, config), sorted(names), grids, ignored, origin)

    def _tensors(self, layer: Layer, config: AffineConfig) -> "NativeTensors | GroupedTensors":
        """Return how the layer's weight is stored."""
        import torch

        from qtoolkit.formats.native.tensors import NativeTensors

        if config.stored_as is not None:
            shape = (layer.out_features, layer.in_features)
            dtype = getattr(torch, layer.dtype)
            return config.stored_as.tensors_of(config.grid(layer), *shape, bits=config.bits, dtype=dtype)
        return NativeTensors(
            layer.out_features,
            layer.in_features,
            bits=config.bits,
            granularity=config.granularity,
            group_size=fitting_group_size(layer, config),
            symmetric=config.sym,
        )


def _holds(config: AffineConfig, layer: Layer) -> bool:
    """Check whether the format of a layer's config holds the layer, and its readers take the groups."""
    if config.stored_as is None:
        return True
    # transformers 5.23 does not merge experts of a file that says compressed-tensors.
    if layer.beside_experts or (config.granularity == "group" and config.group_size < _SMALLEST_GROUP):
        return False
    # Rounding needs no calibration: a layer outside the blocks is like any other.
    return not config.stored_as.reason_to_skip(replace(layer, in_block=True))


def _native(config: AffineConfig) -> AffineConfig:
    """Return a config whose codes qtoolkit's own format stores."""
    # The base has no such field: each of its configs has its own default.
    changes: dict[str, Any] = {"format": MethodConfig.format}
    return replace(config, **changes)


def _grouped(
    tensors: "GroupedTensors", codes: "torch.Tensor", scale: "torch.Tensor", zero_point: "torch.Tensor | None"
) -> "dict[str, torch.Tensor]":
    """Return the tensors that store the codes of `round_weight`, made unsigned.

    Args:
        tensors: how they are stored.
        codes: int8 [out, in].
        scale: [1, 1] or [out * groups, 1].
        zero_point: int8 of the same shape; None when symmetric.
    """
    import torch

    out_features, in_features = codes.shape
    middle = 2 ** (tensors.bits - 1)
    if zero_point is None:
        zero_point = torch.zeros_like(scale, dtype=torch.int8)
    # [1, 1] or [out * groups, 1] -> [out or 1, groups] -> [groups, out]
    rows = 1 if scale.numel() == 1 else out_features
    scale, zero_point = (one.view(rows, -1).expand(out_features, -1).T for one in (scale, zero_point))
    groups = torch.arange(in_features) // tensors.inputs_per_scale
    # As bytes, without a copy in a wider type; int8 [out, in] -> uint8 [in, out].
    unsigned = codes.view(torch.uint8).bitwise_xor_(128) if middle == 128 else codes.add_(middle).view(torch.uint8)
    return tensors.store(unsigned.T, scale, zero_point.to(torch.int16) + middle, groups)


def fitting_group_size(layer: Layer, config: AffineConfig) -> int:
    """Return the config's group size, or the largest even one below it that divides the layer's inputs.

    In a format of other programs, one of those that kernels take. -1 where the granularity is not "group".
    """
    if config.granularity != "group":
        return -1
    if config.stored_as is not None and layer.in_features % config.group_size:
        # Inputs are multiples of the last.
        return next(size for size in _GROUPS if size <= config.group_size and layer.in_features % size == 0)
    sizes = range(config.group_size, 1, -1)
    return next((size for size in sizes if size % 2 == 0 and layer.in_features % size == 0), layer.in_features)


class AbsMaxMethod(AffineMethod):
    """Round to symmetric codes: a code is the weight divided by its largest magnitude."""

    config_class = AbsMax
    summary = "symmetric rounding, 8 or 4 bits (textbook); no calibration"


class ZeroPointMethod(AffineMethod):
    """Round to asymmetric codes: the range from least to largest weight is mapped to all codes."""

    config_class = ZeroPoint
    title = "zero-point"
    summary = "asymmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = False


ABSMAX = AbsMaxMethod()
ZERO_POINT = ZeroPointMethod()
