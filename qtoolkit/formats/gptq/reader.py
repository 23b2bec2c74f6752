"""Plan and load a GPTQ checkpoint."""

from typing import TYPE_CHECKING, Any

from qtoolkit.formats.base import Reader
from qtoolkit.formats.gptq.config import read_quantize_config
from qtoolkit.formats.gptq.loader import holds_experts
from qtoolkit.formats.gptq.stored_layers import find_layers, load_gptq
from qtoolkit.formats.layer import Layer
from qtoolkit.kernels import memory_bytes
from qtoolkit.models.building import build_empty
from qtoolkit.models.experts import replace_experts
from qtoolkit.records import LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.noted import Noted

_TENSORS = ("qweight", "qzeros", "scales", "g_idx", "bias")


class GPTQReader(Reader):
    """Plan and load one GPTQ checkpoint; its file decides which layers are quantized, and with how many bits.

    Args:
        checkpoint: quantized.

    Raises:
        CheckpointError, UnsupportedModelError: as `read_quantize_config` and `find_layers`.
    """

    name = "gptq"

    def __init__(self, checkpoint: "Checkpoint") -> None:
        assert checkpoint.quantization is not None
        config = read_quantize_config(checkpoint.quantization)
        self._reordered = config.desc_act
        self._tensors = checkpoint.tensors
        model = build_empty(checkpoint, checkpoint.dtype)
        self.splits_experts = holds_experts(model, checkpoint.tensors)
        if self.splits_experts:
            replace_experts(model)
        self._layers = find_layers(model, checkpoint.tensors, config)
        self.bits = {name: layer.tensors.bits for name, layer in self._layers.items()}

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        """See `Reader`."""
        stored = self._layers.get(layer.name)
        if stored is None:
            return layer.left_alone("not quantized in the checkpoint")
        packed = memory_bytes(stored.tensors, device=layer.device, reordered=self._reordered)
        tensors = (self._tensors.get(f"{stored.name}.{name}") for name in _TENSORS)
        disk = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        # A file may have a bias, of zeros, where the model has none; `replaced` adds the model's own.
        bias = layer.out_features * layer.itemsize * (stored.bias_dtype is not None) - layer.bias_bytes
        disk -= layer.bias_bytes
        return layer.replaced(packed + bias, disk_bytes=disk, working_bytes=packed, bits=stored.tensors.bits)

    def load(self, checkpoint: "Checkpoint", *, device: str) -> "Noted[PreTrainedModel]":
        """See `Reader`."""
        assert checkpoint.quantization is not None
        return load_gptq(checkpoint, checkpoint.quantization, device=device)
