"""A linear layer as it is planned."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A linear layer as a method sees it when it plans: names and shapes, no values.

    Attributes:
        name: full module name.
        out_features, in_features: of its weight W[out_features, in_features], also for GPT-2's transposed Conv1D.
        has_bias: whether it adds a bias [out_features].
        itemsize: bytes of one element of its weight and bias now.
        device: where it will live, "cpu" or "cuda:0".
        in_block: whether it belongs to one of the model's blocks.
    """

    name: str
    out_features: int
    in_features: int
    has_bias: bool
    itemsize: int
    device: str
    in_block: bool = True

    @classmethod
    def of(cls, name: str, module: "nn.Module", device: str, *, in_block: bool = True) -> "Layer":
        """A linear module of a model, full precision, as a layer."""
        from qtoolkit.models.structure import linear_shape

        out_features, in_features = linear_shape(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        has_bias, itemsize = module.bias is not None, weight.element_size()
        return cls(name, out_features, in_features, has_bias, itemsize, device, in_block)

    @property
    def num_weights(self) -> int:
        """Elements of the weight."""
        return self.out_features * self.in_features

    @property
    def bias_bytes(self) -> int:
        """Bytes of the bias, which every method leaves as it is."""
        return self.out_features * self.itemsize * self.has_bias

    def replaced(
        self, weight_bytes: int, *, disk_bytes: int, working_bytes: int, adjusted: str = "", bits: int = 0
    ) -> LayerPlan:
        """Return the plan of this layer when something else takes its weight's place.

        Args:
            weight_bytes: of all that replaces the weight in memory, scales and tables included.
            disk_bytes: of all that replaces the weight in the file.
            working_bytes: the most that is in use at one time while the layer is quantized, beside the source weight.
            adjusted: what the method changed so that the layer fits.
            bits: size of a code, where a method's layers may differ.
        """
        return LayerPlan(
            name=self.name,
            shape=(self.out_features, self.in_features),
            num_weights=self.num_weights,
            bytes_before=self.num_weights * self.itemsize + self.bias_bytes,
            bytes_after=weight_bytes + self.bias_bytes,
            disk_bytes=disk_bytes + self.bias_bytes,
            adjusted=adjusted,
            bits=bits,
            working_bytes=self.num_weights * self.itemsize + working_bytes,
        )

    def left_alone(self, reason: str) -> LayerPlan:
        """Return the plan of this layer when it stays as it is, and why."""
        size = self.num_weights * self.itemsize + self.bias_bytes
        return LayerPlan(
            name=self.name,
            shape=(self.out_features, self.in_features),
            num_weights=self.num_weights,
            bytes_before=size,
            bytes_after=size,
            disk_bytes=size,
            skipped=reason,
            working_bytes=size,
        )
