"""A checkpoint in full precision whose weights have an adapter added, one by one as they are read."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from qtoolkit.adapters.adapter_reading import Adapter, Change
from qtoolkit.adapters.base_names import own_name
from qtoolkit.checkpoints.safetensors import StoredTensor
from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.renaming import matrices_in_file
from qtoolkit.models.structure import is_linear, is_transposed


@dataclass(frozen=True)
class AdaptedTensor(StoredTensor):
    """A weight to which a change is added when it is indexed; takes the place of a `StoredTensor`.

    Attributes:
        stored: the weight in the file.
        change: what is added to W[out, in].
        transposed: whether the file holds W^T.
    """

    stored: StoredTensor
    change: Change
    transposed: bool

    @property
    def working_bytes(self) -> int:
        """Return the bytes that reading it takes at most, beside the tensor itself: the change and the sum."""
        return self.stored.working_bytes + 12 * torch.Size(self.shape).numel()

    def first_bytes(self, count: int) -> bytes:
        """Read the first bytes of the weight and of both matrices."""
        matrices = (self.change.a, self.change.b)
        values = [one.flatten()[:count].contiguous().float().numpy().tobytes() for one in matrices]
        return b"".join((self.stored.first_bytes(count), str(self.change.scaling).encode(), *values))

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Read the weight and add the change in float32, then index it; raises as `StoredTensor`."""
        change = self.change.product()
        total = self.stored[...].float() + (change.T if self.transposed else change)
        return total.to(self.dtype)[index]

    def part(self, first: int, last: int) -> torch.Tensor:
        """Return a part of the sum; raises as by index."""
        return self[first:last]


def adapted(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return a checkpoint whose weights have an adapter added; no weight is read.

    Args:
        checkpoint: the base in full precision.
        adapter: its adapter.

    Raises:
        ConfigError: the base has no such layers, or of other shapes, or they are smaller than the rank.
        UnsupportedModelError: the base is no folder of safetensors, or a weight is shared with another layer.
    """
    if checkpoint.expand is not None or checkpoint.format not in ("safetensors", "gguf"):
        raise UnsupportedModelError(
            f"the weights of {checkpoint.name} are not read one by one from files: give a folder of safetensors as base"
        )
    model = checkpoint.skeleton
    modules = dict(model.named_modules())
    in_file = {name: key for key, name in matrices_in_file(model, checkpoint.tensors).items()}
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    tensors: dict[str, StoredTensor | torch.Tensor] = {**checkpoint.tensors}
    for name, change in adapter.changes.items():
        key = f"{in_file.get(name)}.weight"
        module = modules.get(name)
        if module is None or key not in tensors or not is_linear(module):
            raise ConfigError(
                f"adapter {adapter.name} changes {name}, which is no linear layer of {checkpoint.name}: give an "
                "adapter of this model"
            )
        if f"{name}.weight" in tied:
            raise UnsupportedModelError(
                f"adapter {adapter.name} changes {name}, whose weight is the embedding's too: train one without it"
            )
        transposed = is_transposed(module)
        _check_shape(name, change, tuple(tensors[key].shape), transposed=transposed, adapter=adapter)
        tensors[key] = _added(tensors[key], change, transposed=transposed)
    layers, ranks = len(adapter.changes), sorted({change.rank for change in adapter.changes.values()})
    note = (
        f"the adapter {adapter.name} (sha256 {adapter.sha256[:12]}, rank {' and '.join(map(str, ranks))}, {layers} "
        f"layers) was added to the weights of {own_name(checkpoint.name)} before they were quantized"
    )
    return replace(checkpoint, tensors=tensors).with_notes(note)


def _check_shape(name: str, change: Change, shape: tuple[int, ...], *, transposed: bool, adapter: Adapter) -> None:
    """Refuse a change of another shape than the weight's, or of a rank that such a weight cannot have."""
    out, inputs = reversed(shape) if transposed else shape
    if change.shape != (out, inputs):
        sizes = f"{change.shape[0]} x {change.shape[1]} in adapter {adapter.name} and {out} x {inputs} in the model"
        raise ConfigError(f"{name} is {sizes}: give an adapter of this model")
    if change.rank > min(out, inputs):
        raise ConfigError(
            f"adapter {adapter.name} has the rank {change.rank} for {name}, which is {out} x {inputs}: no such product "
            f"has more than {min(out, inputs)}, so the adapter is damaged"
        )


def _added(tensor: StoredTensor | torch.Tensor, change: Change, *, transposed: bool) -> StoredTensor:
    """Return a weight with a change."""
    assert isinstance(tensor, StoredTensor)
    fields: dict[str, Any] = {name: getattr(tensor, name) for name in StoredTensor.__dataclass_fields__}
    return AdaptedTensor(**fields, stored=tensor, change=change, transposed=transposed)
