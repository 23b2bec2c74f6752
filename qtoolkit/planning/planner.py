"""What a job will do to each layer and what it will need, from headers and shapes alone."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from qtoolkit.errors import UnsupportedModelError
from qtoolkit.formats import Layer, Reader
from qtoolkit.methods import Method, MethodConfig, check_rules, get_method
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.planning.advice import advise
from qtoolkit.planning.device import adapt_dtype
from qtoolkit.planning.fit import judge
from qtoolkit.planning.phases import base_terms, inference, job_phases, make_work
from qtoolkit.records import THIS_MACHINE, LayerPlan, Machine, Plan, Speed
from qtoolkit.source import Checkpoint
from qtoolkit.source import skeleton as skeletons
from qtoolkit.source.building import build_empty
from qtoolkit.source.experts import find_experts, replace_experts


def plan_job(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine | None,
    *,
    rss: int,
    method: Method | Reader | None = None,
    **options: Any,
) -> tuple[MethodConfig, Plan]:
    """The config with "auto" resolved for this model and device, and the plan; by default of the config's method."""
    method = method or get_method(config.method)
    adapt_dtype(checkpoint, device, None if machine is None or machine.name == THIS_MACHINE else machine)
    resolved = method.resolve(config, str(checkpoint.dtype).removeprefix("torch."), device)
    return make_plan(checkpoint, method, resolved, device=device, rss=rss, machine=machine, **options)


def plan_with_advice(
    checkpoint: Checkpoint, config: MethodConfig, device: str, machine: Machine, *, rss: int, **options: Any
) -> tuple[MethodConfig, Plan]:
    """As `plan_job`, and where the plan does not fit, with what would."""

    def draft(other: MethodConfig, place: str) -> Plan:
        return plan_job(replace(checkpoint, notes=[]), other, place, machine, rss=rss, **options)[1]

    settings, plan = plan_job(checkpoint, config, device, machine, rss=rss, **options)
    return settings, plan if plan.fits else replace(plan, advice=advise(plan, settings, draft))


def make_plan(
    checkpoint: Checkpoint,
    method: Method | Reader,
    config: MethodConfig,
    *,
    device: str,
    rss: int,
    machine: Machine | None = None,
    saves: bool = True,
    measures: int = 0,
    context: int = 4096,
    batch_size: int = 1,
) -> tuple[MethodConfig, Plan]:
    """Plan the quantization of a checkpoint.

    Args:
        checkpoint: the model, headers read.
        method: what will be done.
        config: its options, "auto" resolved.
        device: "cpu" or "cuda:0".
        rss: bytes that this process has resident now.
        machine: what is planned for; None to judge nothing.
        saves: whether the result is written to the disk.
        measures: numbers of bits for which the sensitivity of layers is measured first; 0 where it is not.
        context, batch_size: tokens and sequences for which using the result is planned.

    Returns:
        The config as it fits the model's layers, and the plan.

    Raises:
        ConfigError: the config fits no layer of the model.
        UnsupportedModelError: no layer is left to quantize.
    """
    config, layers, skipped = _layer_plans(checkpoint, method, config, device)
    buffers = {id(buffer): buffer.nbytes for buffer in checkpoint.skeleton.buffers()}
    footprint = _total(layers, skipped, "bytes_after") + sum(buffers.values())
    disk = _total(layers, skipped, "disk_bytes")
    base = base_terms(checkpoint, method.requires, machine, device, rss)
    # A machine's speed is that of its GPU, where it has one.
    known = machine is not None and bool(machine.vram) == (device != "cpu")
    speed = machine.speed if machine and known else Speed()
    work = make_work(checkpoint, layers, skipped, footprint, device, base, speed)
    plan = Plan(
        source=checkpoint.record(),
        method=method.name,
        settings=config.to_dict(),
        device=device,
        layers=layers,
        skipped=skipped,
        footprint_after=footprint,
        disk_after=disk,
        phases=job_phases(checkpoint, method, config, work, disk, measures),
        inference=inference(checkpoint, work, context, batch_size),
        notes=(*checkpoint.notes, *method.notes(config, layers), *_missing(method)),
    )
    return config, judge(plan, machine, saves=saves) if machine else plan


def _missing(method: Method | Reader) -> Iterable[str]:
    """What has to be installed first."""
    return (
        f"{method.name} needs {REQUIREMENTS[package]}, which is not installed"
        for package in method.requires
        if not is_installed(package)
    )


def _layer_plans(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, device: str
) -> tuple[MethodConfig, tuple[LayerPlan, ...], tuple[LayerPlan, ...]]:
    """The config as it fits, the modules that will be quantized, and those that stay."""
    candidates, excluded = _candidates(checkpoint, method, config, device)
    check_rules(config, [layer.name for layer in candidates], [layer.name for layer in excluded])
    fitted = method.fit(candidates, config)
    changed, config = _changes(config, fitted), fitted
    plans = [method.plan_layer(layer, config.of(layer.name)) for layer in candidates]
    if changed:
        plans = [plan if plan.skipped else replace(plan, adjusted=changed) for plan in plans]
    layers = tuple(plan for plan in plans if not plan.skipped)
    skipped = (*excluded, *(plan for plan in plans if plan.skipped))
    if not layers:
        reasons = ", ".join(sorted({layer.skipped for layer in skipped})) or "it has no weights"
        raise UnsupportedModelError(f"{method.name} finds no layer to quantize in {checkpoint.name}: {reasons}")
    return config, layers, skipped


def _changes(asked: MethodConfig, fitted: MethodConfig) -> str:
    """What a method changed of its config so that it fits all layers."""
    before, after = asked.to_dict(), fitted.to_dict()
    changed = [f"{name} {value} instead of {before[name]}" for name, value in after.items() if value != before[name]]
    return f"{', '.join(changed)}, which does not fit all layers" if changed else ""


def layers_to_quantize(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, device: str
) -> tuple[Layer, ...]:
    """The linear layers that a method may quantize, in the model's order."""
    return _candidates(checkpoint, method, config, device)[0]


def _candidates(
    checkpoint: Checkpoint, method: Method | Reader, config: MethodConfig, device: str
) -> tuple[tuple[Layer, ...], tuple[LayerPlan, ...]]:
    """Every module that has weights: those that a method may quantize, and those that stay with the reason why."""
    model = checkpoint.skeleton
    if method.splits_experts and find_experts(model):
        model = build_empty(checkpoint, checkpoint.dtype)
        replace_experts(model)
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
