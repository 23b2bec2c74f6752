"""Methods that replace each linear layer on its own, from its weight alone, by a layer of ours."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from qtoolkit.formats import Layer, get_format
from qtoolkit.methods._config import MethodConfig
from qtoolkit.methods._method import Method, Outcome
from qtoolkit.records import OnProgress, Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qtoolkit.models import Checkpoint
    from qtoolkit.stream import JournalPlace


class LinearMethod(Method):
    """Base of the methods that need no calibration and run in a layer of ours.

    A subclass gives `plan_layer`, `build` and `quantize_weight`. The result is read back by `qt.load`, and by
    transformers' own `from_pretrained` once qtoolkit is imported.
    """

    @abstractmethod
    def build(self, layer: Layer, config: Any, dtype: "Any") -> "nn.Module":
        """The layer that takes the place of one that this method plans to quantize, without values.

        Its tensors are buffers.

        Args:
            layer: names and shapes.
            config: the layer's own, of what is saved with the model.
            dtype: torch type of the bias.
        """

    @abstractmethod
    def quantize_weight(self, weight: "Tensor", layer: Layer, config: Any) -> "dict[str, Tensor]":
        """The buffers of `build` that stand for W[out_features, in_features], by name.

        Args:
            weight: full precision, on the device on which it is quantized.
            layer, config: as for `build`.
        """

    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalPlace | None" = None,
    ) -> Outcome:
        from qtoolkit.stream import load_streamed

        quantized = [layer.name for layer in plan.layers]
        settings = get_format(config.format).quantization_config(self.name, config.to_dict(), quantized)
        loaded = load_streamed(checkpoint, settings, device=plan.device, on_progress=on_progress)
        return Outcome(loaded.value, notes=loaded.notes)


class LinearLayers:
    """The layers of one such method with one config, as `qtoolkit.formats.Layers`."""

    def __init__(self, method: LinearMethod, config: MethodConfig) -> None:
        self._method, self._config = method, config

    def build(self, layer: Layer, dtype: Any) -> "nn.Module":
        """See `Layers`."""
        return self._method.build(layer, self._config.of(layer.name), dtype)

    def quantize_weight(self, weight: "Tensor", layer: Layer) -> "dict[str, Tensor]":
        """See `Layers`."""
        return self._method.quantize_weight(weight, layer, self._config.of(layer.name))
