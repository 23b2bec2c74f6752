"""Base classes of the methods that need no calibration."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qtoolkit.formats import Layer, get_format, patched_modules
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.method import Method, Outcome
from qtoolkit.records import OnProgress, Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.models.checkpoint import Checkpoint
    from qtoolkit.stream.journal import JournalLocation


class WeightOnlyMethod(Method):
    """Base of the methods that need no calibration: each weight is quantized as transformers reads it."""

    @abstractmethod
    def transformers_config(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> Any:
        """Return the quantization config with which transformers quantizes exactly the layers of a plan."""

    def quantize(
        self,
        checkpoint: "Checkpoint",
        config: Any,
        plan: Plan,
        on_progress: OnProgress,
        journal: "JournalLocation | None" = None,
    ) -> Outcome:
        """See `Method`."""
        from qtoolkit.stream.loading import load_streamed

        checkpoint = self.source_of(checkpoint, config, plan)
        stored_as = self.transformers_config(checkpoint, config, plan)
        loaded = load_streamed(checkpoint, stored_as, device=plan.device, on_progress=on_progress)
        notes = (*self.notes(config, plan.layers), *loaded.notes, *self.measured_notes(loaded.value, config))
        return Outcome(loaded.value, notes=notes)

    def source_of(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> "Checkpoint":
        """Return the checkpoint whose tensors are read one by one: those of experts apart where some are planned."""
        from qtoolkit.models.experts_apart import are_of_experts

        quantized = [layer.name for layer in plan.layers]
        if patched_modules(checkpoint.skeleton, get_format(config.format).quant_method):
            return checkpoint.with_experts_apart(None)
        return (
            checkpoint.with_experts_apart(quantized) if are_of_experts(checkpoint.skeleton, quantized) else checkpoint
        )

    def measured_notes(self, model: "PreTrainedModel", config: Any) -> tuple[str, ...]:
        """Return what storing the codes has changed in a quantized model, or in a part of one. Default: nothing."""
        return ()

    def makes_parts(self, config: Any) -> bool:
        """See `Method`: blocks."""
        return True

    def refuse_workers(self, config: Any, *, option: str = "executor") -> None:
        """See `Method`: workers share the blocks of any whose layers do not know of one another."""
        if type(self).quantize is not WeightOnlyMethod.quantize:
            super().refuse_workers(config, option=option)


class LinearMethod(WeightOnlyMethod):
    """Base of the methods that quantize a linear layer from its weight alone, into a module that they build.

    A subclass defines `plan_layer`, `build` and `quantize_weight`. The result is read back by `qt.load`, and by
    transformers' own `from_pretrained` once qtoolkit is imported.
    """

    @abstractmethod
    def build(self, layer: Layer, config: Any, dtype: "torch.dtype") -> "torch.nn.Module":
        """Build the module that replaces a linear layer; its tensors are buffers with unset values.

        Args:
            layer: name, shape and device.
            config: the layer's own, from the options saved with the model.
            dtype: type of the bias.
        """

    @abstractmethod
    def quantize_weight(self, weight: "torch.Tensor", layer: Layer, config: Any) -> "dict[str, torch.Tensor]":
        """Return the buffers of `build` that store this weight, by name.

        Args:
            weight: W[out_features, in_features], full precision, on the device on which it is quantized.
            layer, config: as for `build`.
        """

    def transformers_config(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> Any:
        """See `WeightOnlyMethod`."""
        names = [layer.name for layer in plan.layers]
        return get_format(config.format).quantization_config(self.name, config.to_file(), names)


class LinearLayers:
    """Build and quantize the layers of one method with one config; implements `qtoolkit.formats.Layers`.

    Args:
        method: of the layers.
        config: of all of them.
        own: configs of single layers by their names, where `config.of` does not give them.
    """

    def __init__(
        self, method: LinearMethod, config: MethodConfig, own: Mapping[str, MethodConfig] = MappingProxyType({})
    ) -> None:
        self._method = method
        self._config = config
        self._own = dict(own)  # transformers copies it, which a read-only view refuses

    def build(self, layer: Layer, dtype: "torch.dtype") -> "torch.nn.Module":
        """See `Layers`."""
        return self._method.build(layer, self._of(layer), dtype)

    def quantize_weight(self, weight: "torch.Tensor", layer: Layer) -> "dict[str, torch.Tensor]":
        """See `Layers`."""
        return self._method.quantize_weight(weight, layer, self._of(layer))

    def _of(self, layer: Layer) -> MethodConfig:
        """Return the config of a layer."""
        return self._own.get(layer.name) or self._config.of(layer.name)
