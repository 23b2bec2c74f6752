"""What a job will do to each layer and what it will need, from headers and shapes alone."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from qtoolkit.formats import Reader
from qtoolkit.methods import Method, MethodConfig, get_method
from qtoolkit.models import Checkpoint
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.planning.advice import advise
from qtoolkit.planning.device import adapt_dtype
from qtoolkit.planning.fit import judge
from qtoolkit.planning.layers import Modules
from qtoolkit.planning.phases import base_terms, inference, job_phases, make_work
from qtoolkit.records import THIS_MACHINE, LayerPlan, Machine, Plan, Speed


@dataclass(frozen=True)
class PlannedJob:
    """What `plan_job` decides.

    Attributes:
        checkpoint: the model in the type that its device has, with notes of what was decided.
        config: the config with "auto" resolved, as it fits the model's layers.
        plan: what the job does and needs.
    """

    checkpoint: Checkpoint
    config: MethodConfig
    plan: Plan


def plan_job(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine | None,
    *,
    rss: int,
    method: Method | Reader | None = None,
    **options: Any,
) -> PlannedJob:
    """Resolve "auto" for this model and device, and plan the job; by default of the config's method."""
    method = method or get_method(config.method)
    checkpoint = adapt_dtype(checkpoint, device, None if machine is None or machine.name == THIS_MACHINE else machine)
    resolved = method.resolve(config, str(checkpoint.dtype).removeprefix("torch."), device)
    checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    return make_plan(checkpoint, method, resolved, device=device, rss=rss, machine=machine, **options)


def plan_with_advice(
    checkpoint: Checkpoint, config: MethodConfig, device: str, machine: Machine, *, rss: int, **options: Any
) -> PlannedJob:
    """Plan as `plan_job`, and add advice to a plan that does not fit: changes with which it would."""

    def draft(other: MethodConfig, place: str) -> Plan:
        return plan_job(checkpoint, other, place, machine, rss=rss, modules=modules, **options).plan

    modules = Modules(checkpoint)
    planned = plan_job(checkpoint, config, device, machine, rss=rss, modules=modules, **options)
    plan = planned.plan
    return planned if plan.fits else replace(planned, plan=replace(plan, advice=advise(plan, planned.config, draft)))


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
    modules: Modules | None = None,
) -> PlannedJob:
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
        modules: the checkpoint's, where several plans of it are made; None for this plan alone.

    Raises:
        ConfigError: the config fits no layer of the model.
        UnsupportedModelError: no layer is left to quantize.
    """
    config, layers, skipped = (modules or Modules(checkpoint)).planned(method, config, device)
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
    return PlannedJob(checkpoint, config, judge(plan, machine, saves=saves) if machine else plan)


def _missing(method: Method | Reader) -> Iterable[str]:
    """What has to be installed first."""
    return (
        f"{method.name} needs {REQUIREMENTS[package]}, which is not installed"
        for package in method.requires
        if not is_installed(package)
    )


def _total(layers: Iterable[LayerPlan], skipped: Iterable[LayerPlan], what: str) -> int:
    return sum(getattr(layer, what) for layer in (*layers, *skipped))
