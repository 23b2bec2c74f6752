"""What a job will do to each layer and what it will need, from headers and shapes alone."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.methods import Layer, Method, MethodConfig
from qtoolkit.records import LayerPlan, Plan
from qtoolkit.source import Checkpoint
from qtoolkit.source import skeleton as skeletons
from qtoolkit.source.building import build_empty
from qtoolkit.source.experts import replace_experts


def make_plan(
    checkpoint: Checkpoint, method: Method, config: MethodConfig, *, device: str, rss: int
) -> tuple[MethodConfig, Plan]:
    """Plan the quantization of a checkpoint.

    Args:
        checkpoint: the model, headers read.
        method: what will be done.
        config: its options, "auto" resolved.
        device: "cpu" or "cuda:0".
        rss: bytes that this process has resident now.

    Returns:
        The config as it fits the model's layers, and the plan.

    Raises:
        ConfigError: the config fits no layer of the model.
        UnsupportedModelError: no layer is left to quantize.
    """
    model = checkpoint.skeleton
    if method.splits_experts:
        model = build_empty(checkpoint, checkpoint.dtype)
        replace_experts(model)
    candidates, excluded = _candidates(model, config, device)
    fitted = method.fit(candidates, config)
    changed, config = _changes(config, fitted), fitted
    plans = [method.plan_layer(layer, config) for layer in candidates]
    if changed:
        plans = [plan if plan.skipped else replace(plan, adjusted=changed) for plan in plans]
    layers = tuple(plan for plan in plans if not plan.skipped)
    skipped = (*excluded, *(plan for plan in plans if plan.skipped))
    if not layers:
        reasons = ", ".join(sorted({layer.skipped for layer in skipped})) or "it has no weights"
        raise UnsupportedModelError(f"{method.name} finds no layer to quantize in {checkpoint.name}: {reasons}")
    buffers = {id(buffer): buffer.nbytes for buffer in checkpoint.skeleton.buffers()}
    footprint = _total(layers, skipped, "bytes_after") + sum(buffers.values())
    largest = max(layer.working_bytes for layer in (*layers, *skipped))
    held = checkpoint.weight_bytes if checkpoint.format == "gguf" else 0
    return config, Plan(
        source=checkpoint.record(),
        method=method.name,
        settings=config.to_dict(),
        device=device,
        layers=layers,
        skipped=skipped,
        footprint_after=footprint,
        disk_after=_total(layers, skipped, "disk_bytes"),
        peak_rss=rss + largest + max(held, footprint if device == "cpu" else 0),
    )


def _changes(asked: MethodConfig, fitted: MethodConfig) -> str:
    """What a method changed of its config so that it fits all layers."""
    before, after = asked.to_dict(), fitted.to_dict()
    changed = [f"{name} {value} instead of {before[name]}" for name, value in after.items() if value != before[name]]
    return f"{', '.join(changed)}, which does not fit all layers" if changed else ""


def _candidates(
    model: PreTrainedModel, config: MethodConfig, device: str
) -> tuple[tuple[Layer, ...], tuple[LayerPlan, ...]]:
    """Every module that has weights: those that a method may quantize, and those that stay with the reason why."""
    tied, head, blocks = skeletons.tied_to(model), skeletons.output_head(model), skeletons.block_list(model)
    candidates: list[Layer] = []
    skipped: list[LayerPlan] = []
    counted: set[int] = set()
    for name, module in skeletons.modules_with_weights(model):
        reason = _why_skipped(name, module, config, tied, is_head=name == head)
        if reason:
            skipped.append(_kept(name, module, reason, counted))
        else:
            in_block = blocks is not None and name.startswith(f"{blocks[0]}.")
            candidates.append(Layer.of(name, module, device, in_block=in_block))
    return tuple(candidates), tuple(skipped)


def _why_skipped(name: str, module: nn.Module, config: MethodConfig, tied: dict[str, str], *, is_head: bool) -> str:
    if not skeletons.is_linear(module):
        return skeletons.kind_of(module)
    if name in tied:
        return f"shares its weight with {tied[name]}"
    # Some architectures call their output head something else.
    if config.excludes(name) or (is_head and config.excludes("lm_head")):
        return "excluded by name"
    return ""


def _kept(name: str, module: nn.Module, reason: str, counted: set[int]) -> LayerPlan:
    """The plan of a module that stays; a parameter that it shares with an earlier module takes no bytes again."""
    parameters = list(module.parameters(recurse=False))
    own = [parameter for parameter in parameters if id(parameter) not in counted]
    counted.update(id(parameter) for parameter in own)
    size = sum(parameter.nbytes for parameter in own)
    largest = max(parameters, key=lambda parameter: parameter.numel())
    return LayerPlan(
        name=name,
        shape=tuple(largest.shape),
        num_weights=sum(parameter.numel() for parameter in own),
        bytes_before=size,
        bytes_after=size,
        disk_bytes=size,
        skipped=reason,
        working_bytes=size,
    )


def _total(layers: Iterable[LayerPlan], skipped: Iterable[LayerPlan], what: str) -> int:
    return sum(getattr(layer, what) for layer in (*layers, *skipped))
