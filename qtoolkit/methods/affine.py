"""The two textbook methods, absmax and zero-point: integer codes with scales (LLM.int8(), arXiv 2208.07339, section 2).

One scale serves the whole weight, one output, or a group of inputs of one output.
"""

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtoolkit.errors import ConfigError
from qtoolkit.formats import Layer
from qtoolkit.methods.affine_config import (
    SMALLEST_GROUP,
    AbsMax,
    AffineConfig,
    ZeroPoint,
    fitting_group_size,
    stored_natively,
)
from qtoolkit.methods.config import MethodConfig
from qtoolkit.methods.weight_only import LinearMethod
from qtoolkit.records import LayerPlan, Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qtoolkit.formats.native.tensors import NativeTensors
    from qtoolkit.formats.stored_layer import GroupedTensors
    from qtoolkit.models.checkpoint import Checkpoint


# Weights of an embedding that are rounded at one time: a float32 copy of all of a large vocabulary takes gigabytes.
_AT_ONCE = 2**21
# Formats that another one replaces where they do not hold all layers: nobody gets them unasked otherwise.
_REPLACED = ("compressed-tensors", MethodConfig.format)


class AffineMethod(LinearMethod):
    """Base of absmax and zero-point."""

    splits_experts = True
    recipes = (
        {"bits": 8, "granularity": "channel"},
        *({"bits": 4, "granularity": "group", "group_size": size} for size in (32, 64, 128)),
    )

    def fit(self, layers: tuple[Layer, ...], config: AffineConfig) -> MethodConfig:
        """See `Method`: refuse a group size that divides the inputs of no layer, and choose a format that holds all."""
        inputs: dict[int, set[int]] = defaultdict(set)
        for layer in layers:
            own = config.of(layer.name)
            if own.granularity == "group":
                inputs[own.group_size].add(layer.in_features)
        for group_size, counts in inputs.items():
            if all(count % group_size for count in counts):
                fitting = [size for size in (256, 128, 64, 32, 16, 8) if any(count % size == 0 for count in counts)]
                would = ", ".join(map(str, fitting)) or "no power of two"
                raise ConfigError(
                    f"{type(config).__name__}: group_size {group_size} divides the inputs of no layer "
                    f"({', '.join(map(str, sorted(counts)))}); {would} would"
                )
        refused = ((layer.name, _reason_against(config.of(layer.name), layer)) for layer in layers)
        name, reason = next(((name, reason) for name, reason in refused if reason), ("", ""))
        if not reason:
            return config
        what = type(config).__name__
        if config.embeddings is not None or config.format not in _REPLACED:
            raise ConfigError(
                f"{what}: format {config.format!r} does not hold {name} ({reason}): exclude it, or leave out format "
                "and embeddings"
            )
        return stored_natively(config)

    def notes(self, config: AffineConfig, layers: tuple[LayerPlan, ...]) -> tuple[str, ...]:
        """See `Method`."""
        stored_as = config.stored_as
        return () if stored_as is None else stored_as.notes(config, layers)

    def plan_layer(self, layer: Layer, config: AffineConfig) -> LayerPlan:
        """See `Method`: with 4 bits, skip a layer with an odd number of inputs."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        if config.bits == 4 and layer.in_features % 2:
            return layer.left_alone(
                f"two 4-bit codes share a byte, and it has an odd number of inputs ({layer.in_features})"
            )
        tensors = self._tensors(layer, config)
        stored = stored_bytes(tensors)
        size = fitting_group_size(layer, config)
        changed = config.granularity == "group" and size != config.group_size
        adjusted = f"group_size {size} instead of {config.group_size}, which does not divide" if changed else ""
        if config.granularity != "group" and tensors.inputs_per_scale != layer.in_features:
            adjusted = f"its scale is repeated for each {tensors.inputs_per_scale} inputs"
        # A float32 copy, which becomes the codes in place, and the codes themselves: 5 bytes a weight by the profiler.
        working = 5 * layer.num_weights + stored
        packed = memory_bytes(tensors, device=layer.device)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, adjusted=adjusted, bits=config.bits)

    def plan_embedding(self, layer: Layer, config: AffineConfig, *, multiplies: bool) -> LayerPlan | None:
        """See `Method`."""
        from qtoolkit.kernels import memory_bytes, stored_bytes

        if config.embeddings is None:
            return None
        if layer.in_features % SMALLEST_GROUP:
            return layer.left_alone(f"its width is no multiple of {SMALLEST_GROUP}, but {layer.in_features}")
        own = config.for_embeddings(layer.in_features)
        tensors = self._tensors(layer, own)
        stored = stored_bytes(tensors)
        packed = memory_bytes(tensors, device=layer.device) if multiplies else stored
        # The codes as they are made, some of them in float32, and as they are packed.
        working = layer.num_weights + 5 * min(_AT_ONCE, layer.num_weights) + stored
        return layer.replaced(packed, disk_bytes=stored, working_bytes=working, bits=own.bits)

    def rounded(self, weight: "torch.Tensor", layer: Layer, config: AffineConfig) -> "torch.Tensor":
        """See `Method`."""
        codes = self._tensors(layer, config).decode(self.quantize_weight(weight, layer, config))
        return codes.expanded(slice(0, layer.out_features), weight.dtype).T

    def quantize_weight(self, weight: "torch.Tensor", layer: Layer, config: AffineConfig) -> "dict[str, torch.Tensor]":
        """See `LinearMethod`."""
        import torch

        from qtoolkit.formats.native.tensors import NativeTensors
        from qtoolkit.methods.rounded_result import grouped_tensors
        from qtoolkit.tensor.rounding import round_weight

        tensors = self._tensors(layer, config)
        _, scale_dtype = tensors.tensors()[tensors.scale_name]
        options: dict[str, Any] = {
            "bits": config.bits,
            "granularity": config.granularity,
            "group_size": fitting_group_size(layer, config),
            "symmetric": config.sym,
            "full_range": isinstance(config, AbsMax) and config.full_range,
            "scale_dtype": scale_dtype,
        }
        if layer.in_block or config.granularity != "group":
            codes, scale, zero_point = round_weight(weight, **options)
        else:
            parts = [round_weight(rows, **options) for rows in weight.split(max(1, _AT_ONCE // layer.in_features))]
            codes, scale = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            zero_points = [zeros for _, _, zeros in parts if zeros is not None]
            zero_point = torch.cat(zero_points) if zero_points else None
        if isinstance(tensors, NativeTensors):
            return tensors.store(codes, scale, zero_point)
        stored = grouped_tensors(tensors, codes, scale, zero_point)
        return {name: tensor.to(weight.device) for name, tensor in stored.items()}

    def source_of(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> "Checkpoint":
        """See `WeightOnlyMethod`: an output head that is tied to a quantized embedding has its codes, and no weight."""
        from qtoolkit.methods.rounded_result import without_tied

        return super().source_of(checkpoint if config.embeddings is None else without_tied(checkpoint), config, plan)

    def measured_notes(self, model: "PreTrainedModel", config: Any) -> tuple[str, ...]:
        """See `WeightOnlyMethod`."""
        from qtoolkit.formats.native.tensors import coarse_groups

        stored_as = config.stored_as
        return coarse_groups(model) if stored_as is None else stored_as.measured_notes(model)

    def build(self, layer: Layer, config: AffineConfig, dtype: "torch.dtype") -> "torch.nn.Module":
        """See `LinearMethod`."""
        from qtoolkit.kernels import QuantizedLinear

        return QuantizedLinear(self._tensors(layer, config), bias=layer.has_bias, dtype=dtype)

    def transformers_config(self, checkpoint: "Checkpoint", config: Any, plan: Plan) -> Any:
        """See `WeightOnlyMethod`: a format of other programs names layers as they are called in the file."""
        if config.stored_as is None:
            return super().transformers_config(checkpoint, config, plan)
        from qtoolkit.methods.rounded_result import result_config

        return result_config(checkpoint, self, config, plan)

    def _tensors(self, layer: Layer, config: AffineConfig) -> "NativeTensors | GroupedTensors":
        """Return how the layer's weight is stored."""
        import torch

        from qtoolkit.formats.native.tensors import NativeTensors

        if config.stored_as is not None:
            shape = (layer.out_features, layer.in_features)
            dtype = getattr(torch, layer.dtype)
            return config.stored_as.tensors_of(config.grid(layer), *shape, bits=config.bits, dtype=dtype)
        return NativeTensors(
            layer.out_features,
            layer.in_features,
            bits=config.bits,
            granularity=config.granularity,
            group_size=fitting_group_size(layer, config),
            symmetric=config.sym,
        )


def _reason_against(config: AffineConfig, layer: Layer) -> str:
    """Return why the format of a layer's config does not hold the layer, or readers its groups; empty if they do."""
    if config.stored_as is None:
        return ""
    # transformers 5.23 does not merge experts of a file that says compressed-tensors, and none of codes.
    if layer.beside_experts:
        return "beside experts in one tensor, which stay as they are"
    if config.granularity == "group" and config.group_size < SMALLEST_GROUP:
        return f"groups of {config.group_size}"
    # Rounding needs no calibration: a layer outside the blocks is like any other, where readers look for it.
    return config.stored_as.reason_to_skip(replace(layer, in_block=layer.in_block or not config.stored_as.blocks_alone))


class AbsMaxMethod(AffineMethod):
    """Round to symmetric codes: a code is the weight divided by its largest magnitude."""

    config_class = AbsMax
    summary = "symmetric rounding, 8 or 4 bits (textbook); no calibration"


class ZeroPointMethod(AffineMethod):
    """Round to asymmetric codes: the range from least to largest weight is mapped to all codes."""

    config_class = ZeroPoint
    title = "zero-point"
    summary = "asymmetric rounding, 8 or 4 bits (textbook); no calibration"
    symmetric = False

    def fit(self, layers: tuple[Layer, ...], config: AffineConfig) -> MethodConfig:
        """See `Method`: which layout of a format holds the zero points is known once they are chosen."""
        if config.stored_as is not None and config.stored_as.layouts:
            raise ConfigError(
                f"{type(config).__name__}: format {config.format!r} may have no room for a zero point: quantize into "
                "another format, and give the result to qt.convert"
            )
        return super().fit(layers, config)


ABSMAX = AbsMaxMethod()
ZERO_POINT = ZeroPointMethod()
