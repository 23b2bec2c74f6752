"""A linear layer by name, shape and device, and its plans."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A linear layer as planning sees it: name, shape and device, no values.

    Attributes:
        name: full module name.
        out_features, in_features: of its weight W[out_features, in_features], also for GPT-2's transposed Conv1D.
        has_bias: whether it adds a bias [out_features].
        itemsize: bytes of one element of its weight and bias before quantization.
        device: its device after quantization, "cpu" or "cuda:0".
        in_block: whether it belongs to one of the model's blocks.
        dtype: type of its weight before quantization, "bfloat16".
        transposed: whether it holds its weight as [in, out], as GPT-2's Conv1D does.
        kind: the class of its module, "Linear".
        keeps_type: whether its class loads it in float32 in any model, so that transformers' own quantizers leave it.
        is_split: whether files hold its weight in one tensor with those of other layers.
        is_misread: whether its own name ends with "weight", which transformers takes for that of a tensor as it reads
            bitsandbytes' codes.
        is_reached: whether a text runs through it; none does through the towers of images.
        beside_experts: whether the model has experts that transformers merges as it loads them, and that are not split.
    """

    name: str
    out_features: int
    in_features: int
    has_bias: bool
    itemsize: int
    device: str
    in_block: bool = True
    dtype: str = "bfloat16"
    transposed: bool = False
    kind: str = "Linear"
    beside_experts: bool = False
    keeps_type: bool = False
    is_split: bool = False
    is_misread: bool = False
    is_reached: bool = True

    @classmethod
    def of(cls, name: str, module: "nn.Module", device: str, *, in_block: bool = True) -> "Layer":
        """Return the layer of a linear module in full precision."""
        from qtoolkit.models.structure import is_transposed, linear_shape

        out_features, in_features = linear_shape(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        return cls(
            name,
            out_features,
            in_features,
            has_bias=module.bias is not None,
            itemsize=weight.element_size(),
            device=device,
            in_block=in_block,
            dtype=str(weight.dtype).removeprefix("torch."),
            transposed=is_transposed(module),
            kind=type(module).__name__,
        )

    @classmethod
    def of_embedding(cls, name: str, module: "nn.Module", device: str) -> "Layer":
        """Return an embedding W[tokens, width] as a layer whose outputs are its tokens."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        dtype = str(weight.dtype).removeprefix("torch.")
        return cls(
            name,
            out_features=len(weight),
            in_features=weight.shape[1],
            has_bias=False,
            itemsize=weight.element_size(),
            device=device,
            in_block=False,
            dtype=dtype,
        )

    @property
    def num_weights(self) -> int:
        """Return the number of elements of the weight."""
        return self.out_features * self.in_features

    @property
    def bias_bytes(self) -> int:
        """Return the bytes of the bias, which no method changes."""
        return self.out_features * self.itemsize * self.has_bias

    def replaced(
        self, weight_bytes: int, *, disk_bytes: int, working_bytes: int, adjusted: str = "", bits: int = 0
    ) -> LayerPlan:
        """Return the plan of this layer if it is quantized.

        Args:
            weight_bytes: bytes of everything that replaces the weight in memory, scales and tables included.
            disk_bytes: bytes of everything that replaces the weight in the file.
            working_bytes: peak bytes while the layer is quantized, the source weight not counted.
            adjusted: which option the method changed for this layer, and why; empty for none.
            bits: size of a code, for methods whose layers may differ; 0 for others.
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
        """Return the plan of this layer if it is not quantized, for this reason."""
        size = self.num_weights * self.itemsize
        unchanged = self.replaced(size, disk_bytes=size, working_bytes=self.bias_bytes)
        return replace(unchanged, skipped=reason)
