"""Plan the layers that a checkpoint of a format of other programs stores quantized."""

from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Reader
from qtoolkit.formats.layer import Layer
from qtoolkit.formats.split_experts import experts_of
from qtoolkit.kernels import memory_bytes, stored_bytes
from qtoolkit.models import structure
from qtoolkit.models.building import build_empty
from qtoolkit.models.experts import replace_experts
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedModel

    from qtoolkit.formats.stored_layer import Headers, StoredLayer
    from qtoolkit.models.checkpoint import Checkpoint


class StoredReader(Reader):
    """Base of the readers of such checkpoints: the file decides which layers are quantized, and with how many bits.

    Args:
        checkpoint: quantized.
        stored: names of its quantized layers in the file.
        find_layers: returns them by the names of the model's modules, checked, from the model and the file's tensors.
        reordered: whether the inputs of a group need not be neighbours.

    Attributes:
        model: the model on the meta device, its experts as linear layers if the file has them so.
        layers: the quantized layers by the names of the model's modules.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        stored: list[str],
        find_layers: "Callable[[PreTrainedModel, Headers], Mapping[str, StoredLayer]]",
        *,
        reordered: bool = False,
    ) -> None:
        self._reordered = reordered
        self._headers = checkpoint.tensors
        self.model = model = build_empty(checkpoint, checkpoint.dtype)
        experts = experts_of(model, stored)
        self.splits_experts = bool(experts)
        if experts:
            replace_experts(model, experts)
        self.layers = find_layers(model, checkpoint.tensors)
        embeddings = {structure.token_embedding(model), structure.output_head(model)}
        self.bits = {name: one.tensors.bits for name, one in self.layers.items() if name not in embeddings}

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Reader`."""
        stored = self.layers.get(layer.name)
        if stored is None:
            return layer.left_alone("not quantized in the checkpoint")
        packed = memory_bytes(stored.tensors, device=layer.device, reordered=self._reordered)
        return self._planned(layer, stored, packed)

    def plan_embedding(self, layer: Layer, config: Any, *, multiplies: bool) -> LayerPlan | None:
        """See `Reader`."""
        stored = self.layers.get(layer.name)
        if stored is None:
            return None
        device = layer.device
        packed = memory_bytes(stored.tensors, device=device) if multiplies else stored_bytes(stored.tensors)
        return self._planned(layer, stored, packed)

    def check_codes(self, layer: "StoredLayer") -> None:
        """Check the values of a layer before another format takes over its codes. Default: accept all.

        Raises:
            CheckpointError, UnsupportedModelError: they are not those of codes with zero points.
        """

    def _planned(self, layer: Layer, stored: "StoredLayer", packed: int) -> LayerPlan:
        """Return the plan of a layer that takes so many bytes in memory, its bias not counted."""
        tensors = (self._headers.get(f"{stored.name}.{name}") for name in (*stored.tensors.tensors(), "bias"))
        disk = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        # A file may have a bias, of zeros, where the model has none; `replaced` adds the model's own.
        bias = layer.out_features * layer.itemsize * (stored.bias_dtype is not None) - layer.bias_bytes
        disk -= layer.bias_bytes
        return layer.replaced(packed + bias, disk_bytes=disk, working_bytes=packed, bits=stored.tensors.bits)
