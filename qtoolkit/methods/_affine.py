"""What the two textbook schemes share: integer codes with a scale for the tensor, each output, or each group."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qtoolkit.errors import ConfigError
from qtoolkit.methods._config import MethodConfig, option
from qtoolkit.methods._linear import LinearMethod
from qtoolkit.methods._method import Layer
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class AffineConfig(MethodConfig):
    """The options of the textbook schemes."""

    bits: int = option(8, choices=(8, 4), help="size of a code", unit="bits per weight")
    granularity: str = option(
        "tensor",
        choices=("tensor", "channel", "group"),
        help="what shares one scale: the whole weight, an output, a group",
    )
    group_size: int = option(64, help="with granularity group, inputs of one output that share a scale", unit="weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_size < 2 or self.group_size % 2:
            raise ConfigError(f"{type(self).__name__}: group_size must be an even number from 2, got {self.group_size}")


class AffineMethod(LinearMethod):
    """Absmax and zero-point as methods."""

    symmetric: ClassVar[bool]

    def fit(self, layers: tuple[Layer, ...], config: Any) -> MethodConfig:
        if config.granularity == "group" and not any(layer.in_features % config.group_size == 0 for layer in layers):
            inputs = sorted({layer.in_features for layer in layers})
            fitting = [size for size in (256, 128, 64, 32, 16, 8) if any(count % size == 0 for count in inputs)]
            raise ConfigError(
                f"{type(config).__name__}: group_size {config.group_size} divides the inputs of no layer "
                f"({', '.join(map(str, inputs))}); {', '.join(map(str, fitting)) or 'no power of two'} would"
            )
        return super().fit(layers, config)

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        from qtoolkit.modules import QuantizedLinear

        if config.bits == 4 and layer.in_features % 2:
            return layer.left_alone(
                f"two 4-bit codes share a byte, and it has an odd number of inputs ({layer.in_features})"
            )
        size = fitting_group_size(layer, config)
        stored = QuantizedLinear.stored_bytes(
            layer.out_features, layer.in_features, config.bits, config.granularity, size, self.symmetric
        )
        changed = config.granularity == "group" and size != config.group_size
        adjusted = f"group_size {size} instead of {config.group_size}, which does not divide" if changed else ""
        # A float32 copy, which becomes the codes in place, and the codes themselves: 5 bytes a weight by the profiler.
        working = 5 * layer.num_weights + stored
        return layer.replaced(stored, disk_bytes=stored, working_bytes=working, adjusted=adjusted)

    def build(self, layer: Layer, config: Any, dtype: Any) -> "nn.Module":
        from qtoolkit.modules import QuantizedLinear

        return QuantizedLinear(
            layer.in_features,
            layer.out_features,
            layer.has_bias,
            bits=config.bits,
            granularity=config.granularity,
            group_size=fitting_group_size(layer, config),
            symmetric=self.symmetric,
            dtype=dtype,
        )


def fitting_group_size(layer: Layer, config: Any) -> int:
    """The asked group size, or the largest even one below it that divides the layer's inputs; -1 without groups."""
    if config.granularity != "group":
        return -1
    sizes = range(config.group_size, 1, -1)
    return next((size for size in sizes if size % 2 == 0 and layer.in_features % size == 0), layer.in_features)
