"""Give each layer of an expert the name and the numbers that it has in tensors of all experts, read one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.models.experts.expert_layouts import ExpertLayout, ExpertLinear
from qtoolkit.models.renaming import names_in_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = Mapping[str, StoredTensor | torch.Tensor]


@dataclass(frozen=True)
class ExpertTensor(StoredTensor):
    """The weight [out, in] or bias [out] of a layer of one expert, read from the tensor of all when it is indexed.

    Attributes:
        shape, nbytes: of the layer's; the others are those of the tensor of all.
        whole: the tensor of all experts.
        rows: the first of its rows that are the expert's, and the one after the last.
        linear: which part of them the layer is.
    """

    whole: StoredTensor
    rows: tuple[int, int]
    linear: ExpertLinear

    @property
    def stored_bytes(self) -> int:
        """Return the layer's share of what all take in the file."""
        return self.whole.stored_bytes * self.nbytes // max(1, self.whole.nbytes)

    @property
    def working_bytes(self) -> int:
        """Return the bytes of the expert's part of the tensor, which is read whole."""
        first, last = self.rows
        return self.whole.nbytes * (last - first) // max(1, self.whole.shape[0]) + self.whole.working_bytes

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the layer's weight or bias, then index it; raises as the tensor of all."""
        return part_of(self.whole.part(*self.rows), self.linear, len(self.shape)).contiguous()[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Return outputs from `first` up to `last`, without that."""
        return self[first:last]

    def first_bytes(self, count: int) -> bytes:
        """Return the first `count` bytes of the layer's weight, or all where it has fewer."""
        return self[...].view(torch.uint8).numpy().tobytes()[:count]


def tensors_apart(model: "PreTrainedModel", tensors: Tensors, experts: Mapping[str, ExpertLayout]) -> Tensors:
    """Return tensors with those of all experts replaced by one for each layer of each expert; nothing is read.

    Args:
        model: whose experts are not replaced yet; its values are not used.
        tensors: by their names in the file.
        experts: those that are to be taken apart, of `find_experts`.

    Returns:
        the tensors, those of layers by names such as "model.layers.0.mlp.experts.3.gate_proj.weight".
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    owners = {
        f"{name}.{parameter}": (name, layout)
        for name, layout in experts.items()
        if not layout.is_apart
        for parameter in layout.parameters
    }
    if not owners:
        return tensors
    named = names_in_model(model, tensors, get_model_conversion_mapping(model))
    apart: dict[str, StoredTensor | torch.Tensor] = {}
    for key, tensor in tensors.items():
        full = named[key]
        if full not in owners:
            apart[key] = tensor
            continue
        name, layout = owners[full]
        parameter = full.removeprefix(f"{name}.")
        # The name in the file, if the tensor has the model's name there but for what comes before.
        own = key.removesuffix(f".{parameter}") if key.endswith(f".{parameter}") else name
        # Qwen3-VL's checkpoints hold the transpose of the model's parameter, by a rule of transformers.
        flipped = tuple(tensor.shape) != tuple(model.get_parameter(full).shape)
        for linear, kind in layout.parameters[parameter]:
            for index in range(layout.num_experts):
                child = f"{linear.child_of(own, index)}.{kind}"
                apart[child] = _of_one(tensor, layout, linear, index, kind, flipped=flipped)
    return apart


def part_of(rows: torch.Tensor, linear: ExpertLinear, ndim: int) -> torch.Tensor:
    """Return a layer's weight (`ndim` 2) or bias (1) as a view of an expert's rows of the tensor of all.

    Args:
        rows: [1, out, in] or [1, in, out] of a tensor of three dimensions, [out, in] of one of two, [1, out] of biases.
        linear: which part of them the layer is.
        ndim: dimensions of the part.
    """
    own = rows if rows.ndim == ndim else rows[0]
    return own[linear.outputs] if ndim == 1 else linear.weight_of(own)


def _of_one(
    tensor: StoredTensor | torch.Tensor,
    layout: ExpertLayout,
    linear: ExpertLinear,
    index: int,
    kind: str,
    *,
    flipped: bool,
) -> StoredTensor | torch.Tensor:
    """Return the weight or the bias of a layer of one expert; a view, or what is read when it is indexed."""
    from dataclasses import replace

    rows = layout.rows_of(tensor.shape, index, kind)
    ndim = 1 if kind == "bias" else 2
    own = replace(linear, transposed=linear.transposed != flipped) if kind == "weight" else linear
    if isinstance(tensor, torch.Tensor):
        return part_of(tensor[slice(*rows)], own, ndim)
    first, last = rows
    empty = torch.empty((last - first, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")
    part = part_of(empty, own, ndim)
    return ExpertTensor(
        file=tensor.file,
        shape=tuple(part.shape),
        dtype=tensor.dtype,
        start=tensor.start,
        nbytes=part.nbytes,
        stamp=tensor.stamp,
        whole=tensor,
        rows=rows,
        linear=own,
    )
