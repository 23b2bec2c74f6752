"""hqq: zero points by half-quadratic optimization (Badri and Shaji, 2023), rounded to whole numbers."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from qtoolkit.formats.native.tensors import NativeTensors
from qtoolkit.kernels import QuantizedLinear, memory_bytes, stored_bytes
from qtoolkit.methods import Layer, LinearMethod, MethodConfig, option
from qtoolkit.records import LayerPlan


@dataclass(frozen=True, kw_only=True)
class HQQ(MethodConfig):
    """4-bit codes whose zero points make few errors large, without a text."""

    method: ClassVar[str] = "hqq"

    group_size: int = option(64, choices=(32, 64), help="inputs of one output that share a scale", unit="weights")
    steps: int = option(20, help="rounds of the optimization at most", unit="rounds")


class HQQMethod(LinearMethod):
    """HQQ as a method."""

    config_class = HQQ
    title = "HQQ"
    summary = "4 bits, zero points by half-quadratic optimization; no calibration"
    code_bits = 4

    def plan_layer(self, layer: Layer, config: Any) -> LayerPlan:
        if layer.in_features % config.group_size:
            return layer.left_alone(f"its {layer.in_features} inputs are no multiple of {config.group_size}")
        tensors = tensors_of(layer, config)
        stored = stored_bytes(tensors)
        packed = memory_bytes(tensors, device=layer.device)
        return layer.replaced(packed, disk_bytes=stored, working_bytes=16 * layer.num_weights + stored)

    def build(self, layer: Layer, config: Any, dtype: Any) -> torch.nn.Module:
        return QuantizedLinear(tensors_of(layer, config), bias=layer.has_bias, dtype=dtype)

    def quantize_weight(self, weight: torch.Tensor, layer: Layer, config: Any) -> dict[str, torch.Tensor]:
        # [out, in] -> [out, groups, group_size]
        groups = weight.float().unflatten(1, (-1, config.group_size))
        low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-6).to(torch.float16)
        zero = optimized_zero(groups, scale.float(), -8 - low / scale.float(), config.steps).round().clamp(-8, 7)
        codes = codes_of(groups, scale.float(), zero)
        return tensors_of(layer, config).store(codes.flatten(1).to(torch.int8), scale, zero.to(torch.int8))


def codes_of(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    return (groups / scale + zero).round().clamp(-8, 7)


def optimized_zero(groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, steps: int) -> torch.Tensor:
    """The zero points that make the sum of |error|**0.7 small, by turns with the errors that are let stand."""
    best, least, beta = zero, torch.full_like(zero, torch.inf), 10.0
    for _ in range(steps):
        codes = codes_of(groups, scale, zero)
        error = groups - scale * (codes - zero)
        worth = error.abs().pow(0.7).sum(2, keepdim=True)
        best, least = torch.where(worth < least, zero, best), worth.minimum(least)
        kept = error.sign() * (error.abs() - error.abs().clamp(min=1e-8).pow(-0.3) / beta).clamp(min=0)
        zero, beta = (codes - (groups - kept) / scale).mean(2, keepdim=True), beta * 1.01
    return best


def tensors_of(layer: Layer, config: Any) -> NativeTensors:
    return NativeTensors(
        layer.out_features,
        layer.in_features,
        bits=4,
        granularity="group",
        group_size=config.group_size,
        symmetric=False,
    )


METHOD = HQQMethod()
