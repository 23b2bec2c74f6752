"""awq: inputs scaled before rounding, the scales folded into the norms before them (after arXiv 2306.00978)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes
from qtoolkit.methods import Layer, LinearMethod, MethodConfig, Outcome, option
from qtoolkit.records import LayerPlan
from qtoolkit.tensor.lazy import LazyTensor
from qtoolkit.tensor.rounding import round_weight

# A norm -> the layers that take its outputs, in a block; what multiplies with weights of these norms as they are.
FOLDS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
KNOWN = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, kw_only=True)
class AWQ(MethodConfig):
    """4-bit codes of weights whose columns were brought nearer to each other."""

    method: ClassVar[str] = "awq"

    group_size: int = option(32, choices=(32, 64), help="inputs of one output that share a scale", unit="weights")
    alpha: float = option(0.5, help="how far columns are brought together: 0 not at all, 1 wholly")


class AWQMethod(LinearMethod):
    """AWQ as a method."""

    config_class = AWQ
    title = "AWQ"
    summary = "4 bits, inputs scaled by weight magnitude, scales folded into norms; no calibration"
    code_bits = 4
    also_changes = "the norms before them take over the scales of their inputs"

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        tensors = tensors_of(layer, config)
        stored = stored_bytes(tensors)
        packed = memory_bytes(tensors, device=layer.device)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=9 * layer.num_weights + stored)

    def build(self, layer: Layer, config: Any, dtype: Any) -> torch.nn.Module:
        return QuantizedLinear(tensors_of(layer, config), bias=layer.has_bias, dtype=dtype)

    def quantize_weight(self, weight: torch.Tensor, layer: Layer, config: Any) -> dict[str, torch.Tensor]:
        how = {"bits": 4, "granularity": "group", "group_size": config.group_size, "symmetric": False}
        return tensors_of(layer, config).store(*round_weight(weight, **how, scale_dtype=torch.float16))

    def quantize(self, checkpoint: Any, config: Any, plan: Any, on_progress: Any, journal: Any = None) -> Outcome:
        folded = folded_checkpoint(checkpoint, config, {layer.name for layer in plan.layers})
        return super().quantize(folded, config, plan, on_progress, journal)


def folded_checkpoint(checkpoint: Any, config: Any, layers: set[str]) -> Any:
    """The same model with scaled columns and divided norms, each made when it is read."""
    if checkpoint.config.model_type not in KNOWN:
        raise UnsupportedModelError(f"awq knows the norms of {', '.join(KNOWN)} alone: name another method")
    tensors = dict(checkpoint.named_as_stored(checkpoint.skeleton))
    for name in list(tensors):
        block, _, norm = name.removesuffix(".weight").rpartition(".")
        followers = [f"{block}.{layer}" for layer in FOLDS.get(norm, ())]
        if followers and layers.issuperset(followers):
            weights = [tensors[f"{follower}.weight"] for follower in followers]
            # Mean magnitude of each column of the layers together, [in].
            column = torch.cat([weight[...].float().abs() for weight in weights]).mean(0).clamp(min=1e-8)
            scale = (column / column.log().mean().exp()).pow(-config.alpha)
            tensors[name] = multiplied(tensors[name], 1 / scale)
            tensors |= {
                f"{follower}.weight": multiplied(tensors[f"{follower}.weight"], scale) for follower in followers
            }
    return replace(checkpoint, tensors=tensors, expand=None)


def multiplied(tensor: Any, factor: torch.Tensor) -> LazyTensor:
    """A tensor times a factor of its last dimension, in its own type."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: (tensor[...].float() * factor).to(tensor.dtype))


def tensors_of(layer: Layer, config: Any) -> NativeTensors:
    return NativeTensors(
        layer.out_features,
        layer.in_features,
        bits=4,
        granularity="group",
        group_size=config.group_size,
        symmetric=False,
    )


METHOD = AWQMethod()
