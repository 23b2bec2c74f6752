"""A GPTQ checkpoint as it is planned and loaded."""

from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Reader
from qtoolkit.formats.gptq.checkpoint import find_layers, load_quantized
from qtoolkit.formats.gptq.config import read_settings
from qtoolkit.formats.gptq.loader import holds_experts
from qtoolkit.formats.layer import Layer
from qtoolkit.kernels import memory_bytes
from qtoolkit.models.building import build_empty
from qtoolkit.models.experts import replace_experts
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models import Checkpoint
    from qtoolkit.noted import Noted

_TENSORS = ("qweight", "qzeros", "scales", "g_idx", "bias")


class GPTQReader(Reader):
    """One GPTQ checkpoint: its layers are those that the file holds, each as it is there.

    Args:
        checkpoint: quantized, headers read.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_settings` and `find_layers`.
    """

    name = "gptq"

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        self._settings, self._tensors = read_settings(checkpoint.quantization), checkpoint.tensors
        model = build_empty(checkpoint, checkpoint.dtype)
        self.splits_experts = holds_experts(model, checkpoint.tensors)
        if self.splits_experts:
            replace_experts(model)
        self._layers = find_layers(model, checkpoint.tensors, self._settings)
        self.bits = {name: layer.bits for name, layer in self._layers.items()}

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        stored = self._layers.get(layer.name)
        if stored is None:
            return layer.left_alone("not quantized in the checkpoint")
        kept = memory_bytes(stored.tensors(self._settings), device=layer.device, reordered=self._settings.desc_act)
        tensors = (self._tensors.get(f"{stored.name}.{name}") for name in _TENSORS)
        disk = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        # A file may have a bias, of zeros, where the model has none; the plan adds the model's own.
        bias = layer.out_features * layer.itemsize * (stored.bias_dtype is not None) - layer.bias_bytes
        return layer.replaced(kept + bias, disk_bytes=disk - layer.bias_bytes, working_bytes=kept, bits=stored.bits)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        assert checkpoint.quantization is not None
        return load_quantized(checkpoint, checkpoint.quantization, device=device)
