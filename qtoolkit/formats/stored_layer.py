"""A quantized layer of a file: its tensors, checked against each other, and the layer that is built from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from qtoolkit.checkpoints.remedy import file_of, sound_copy
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import CheckpointError
from qtoolkit.kernels import QuantizedEmbedding, QuantizedLinear, StoredTensors
from qtoolkit.models.renaming import names_in_model
from qtoolkit.models.structure import embedding_factor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The tensors of a file by name; their headers are read, and no values.
Headers = Mapping[str, StoredTensor | torch.Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class GroupedTensors(StoredTensors, Protocol):
    """How a format stores codes in groups, and the way from a method's codes into its tensors."""

    def store(
        self, codes: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, groups: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the tensors that store these codes, on the CPU.

        Args:
            codes: uint8 [in, out].
            scale: [groups, out], any floating type; rounded to the type of the stored scales.
            zero_point: whole numbers of any type, [groups, out].
            groups: the group of each input, int64 [in].
        """

    def are_sound(self, tensors: Mapping[str, StoredTensor | torch.Tensor], *, reordered: bool) -> bool:
        """Check the values of tensors that have the right shapes: finite scales, full groups.

        Args:
            tensors: by their names in the layer.
            reordered: whether the inputs of a group need not be neighbours.
        """


class RowTensors(StoredTensors, Protocol):
    """How a format stores codes of a byte each, and the way from a method's codes into its tensors."""

    def store_rows(self, codes: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors that store these codes, on their device.

        Args:
            codes: int8 or float8_e4m3fn [out, in].
            scale: a number for each output [out, 1], or for each block; rounded to the type of the stored scales.
        """


@dataclass(frozen=True)
class StoredLayer:
    """One quantized layer of a file.

    Attributes:
        name: its name in the file.
        tensors: how its weight is stored.
        bias_dtype: type of the bias; None without one.
        absent: names of those of its tensors that the file leaves out, which follow from the others.
    """

    name: str
    tensors: StoredTensors
    bias_dtype: torch.dtype | None
    absent: tuple[str, ...] = ()

    def build(self, dtype: torch.dtype) -> QuantizedLinear:
        """Build the layer on the meta device, its bias in `dtype`."""
        layer = QuantizedLinear(self.tensors, bias=self.bias_dtype is not None, dtype=dtype, device="meta")
        for name in self.absent:
            # Then it is neither read from this file nor written to another.
            layer.register_buffer(name, layer.get_buffer(name), persistent=False)
        return layer


@dataclass(frozen=True)
class StoredEmbedding(StoredLayer):
    """A quantized embedding of a file.

    Attributes:
        tied: whether an output head multiplies with the same codes.
        factor: what its rows are multiplied by; None for nothing.
    """

    tied: bool = False
    factor: float | None = None

    @classmethod
    def of(cls, layer: StoredLayer, model: "PreTrainedModel", name: str) -> "StoredEmbedding":
        """Return the embedding of a model whose tensors a file stores as those of a layer; `name` is the model's."""
        tied = f"{name}.weight" in model.all_tied_weights_keys.values()
        factor = embedding_factor(model.get_submodule(name))
        return cls(layer.name, layer.tensors, None, tied=tied, factor=factor)

    def build(self, dtype: torch.dtype) -> QuantizedLinear:
        """Build the embedding on the meta device; its rows are in `dtype`."""
        return QuantizedEmbedding(self.tensors, dtype=dtype, device="meta", tied=self.tied, factor=self.factor)


def module_names(model: "PreTrainedModel", stored: list[str]) -> dict[str, str]:
    """Return the names of a model's modules in transformers, by their names in a file."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    # Without the rules that merge several layers into one: codes cannot be merged.
    renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    renamed = names_in_model(model, [f"{name}.weight" for name in stored], renamings)
    return {name: renamed[f"{name}.weight"].removesuffix(".weight") for name in stored}


def bias_dtype(stored: str, out_features: int, tensors: Headers) -> torch.dtype | None:
    """Return the type of a layer's bias; None where the file has none; refuse one of another shape."""
    if f"{stored}.bias" not in tensors:
        return None
    check_shape(tensors, f"{stored}.bias", (out_features,), FLOATS)
    return tensors[f"{stored}.bias"].dtype


def check_shape(
    tensors: Headers, name: str, expected: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> tuple[int, ...]:
    """Return the shape of a tensor; refuse one that is missing, or has another type or shape than expected.

    None in `expected` stands for any size.

    Raises:
        CheckpointError: it is missing, or other than expected.
    """
    if name not in tensors:
        raise CheckpointError(f"{name} is missing: {again(tensors)}")
    shape = tuple(tensors[name].shape)
    dtype = tensors[name].dtype
    if dtype not in dtypes:
        allowed = " or ".join(str(kind).removeprefix("torch.") for kind in dtypes)
        raise CheckpointError(f"{name} has the type {str(dtype).removeprefix('torch.')}: it must be {allowed}")
    if len(shape) != len(expected) or any(want not in (None, size) for want, size in zip(expected, shape, strict=True)):
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        raise CheckpointError(f"{name} has the shape {list(shape)}: it must be [{sizes}]")
    return shape


def again(tensors: Headers) -> str:
    """Return the end of a message about a file whose tensors do not fit each other: where to get a sound copy."""
    return sound_copy(file_of(tensors))
