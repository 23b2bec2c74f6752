"""The two textbook methods, absmax and zero-point: integer codes with scales (LLM.int8(), arXiv 2208.07339, section 2).

One scale serves the whole weight, one output, or a group of inputs of one output.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.mixed_precision import MixedConfig
from qtoolkit.methods.weight_only import LinearMethod
from qtoolkit.records import LayerPlan
from qtoolkit.requests import option

if TYPE_CHECKING:
    import torch

    from qtoolkit.formats.native.tensors import NativeTensors


@dataclass(frozen=True, kw_only=True)
class AffineConfig(MixedConfig):
    """Base of the configs of absmax and zero-point."""

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


@dataclass(frozen=True, kw_only=True)
class AbsMax(AffineConfig):
    """Symmetric rounding: scale = max|w| / (2**(bits-1) - 1), code = round(w / scale)."""

    method: ClassVar[str] = "absmax"

    full_range: bool = option(
        False,
        help="use the code -2**(bits-1) too, with scales of either sign: a finer step, by an eighth with 4 bits",
        absent=False,
    )


@dataclass(frozen=True, kw_only=True)
class ZeroPoint(AffineConfig):
    """Asymmetric rounding: scale = (max - min) / (q_max - q_min), zero_point = round(q_min - min / scale)."""

    method: ClassVar[str] = "zero_point"


class AffineMethod(LinearMethod):
    """Base of absmax and zero-point, which differ by `symmetric`."""

    symmetric: ClassVar[bool]
    recipes = (
        {"bits": 8, "granularity": "channel"},
        *({"bits": 4, "granularity": "group", "group_size": size} for size in (32, 64, 128)),
    )

    def fit(self, layers: tuple[Layer, ...], config: AffineConfig) -> MethodConfig:
        """See `Method`: refuse a group size that divides the inputs of no layer."""
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
        return config

    def plan_layer(self, layer: Layer, config: AffineConfig) -> LayerPlan:
        """See `Method`: with 4 bits, skip a layer with an odd number of inputs."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        if config.bits == 4 and layer.in_features % 2:
            return layer.left_alone(
                f"two 4-bit codes share a byte, and it has an odd number of inputs ({layer.in_features})"
            )
        tensors = self._tensors(layer, config)
        stored = stored_bytes(tensors)
        size = tensors.group_size
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
        from qtoolkit.tensor.rounding import round_weight

        tensors = self._tensors(layer, config)
        _, scale_dtype = tensors.tensors()["scale"]
        codes, scale, zero_point = round_weight(
            weight,
            bits=tensors.bits,
            granularity=tensors.granularity,
            group_size=tensors.group_size,
            symmetric=tensors.symmetric,
            full_range=isinstance(config, AbsMax) and config.full_range,
            scale_dtype=scale_dtype,
        )
        return tensors.store(codes, scale, zero_point)

    def build(self, layer: Layer, config: AffineConfig, dtype: "torch.dtype") -> "torch.nn.Module":
        """See `LinearMethod`."""
        from qtoolkit.kernels import QuantizedLinear

        return QuantizedLinear(self._tensors(layer, config), bias=layer.has_bias, dtype=dtype)

    def _tensors(self, layer: Layer, config: AffineConfig) -> "NativeTensors":
        """Return how the layer's weight is stored."""
        from qtoolkit.formats.native.tensors import NativeTensors

        return NativeTensors(
            layer.out_features,
            layer.in_features,
            bits=config.bits,
            granularity=config.granularity,
            group_size=fitting_group_size(layer, config),
            symmetric=self.symmetric,
        )


def fitting_group_size(layer: Layer, config: AffineConfig) -> int:
    """Return the config's group size, or the largest even one below it that divides the layer's inputs.

    -1 where the granularity is not "group".
    """
    if config.granularity != "group":
        return -1
    sizes = range(config.group_size, 1, -1)
    return next((size for size in sizes if size % 2 == 0 and layer.in_features % size == 0), layer.in_features)


class AbsMaxMethod(AffineMethod):
    """Round to symmetric codes: a code is the weight divided by its largest magnitude."""

    config_class = AbsMax
    summary = "symmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = True


class ZeroPointMethod(AffineMethod):
    """Round to asymmetric codes: the range from least to largest weight is mapped to all codes."""

    config_class = ZeroPoint
    title = "zero-point"
    summary = "asymmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = False


ABSMAX = AbsMaxMethod()
ZERO_POINT = ZeroPointMethod()
