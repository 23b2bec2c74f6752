"""Plan what a job will do to each layer and what it will need, from headers and shapes alone."""

from dataclasses import dataclass, replace
from functools import partial

from qtoolkit.checkpoints.layer_values import heads_of
from qtoolkit.formats import Reader, Sizes
from qtoolkit.methods import Method, MethodConfig, get_method
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.planning.advice import advise, advise_reader
from qtoolkit.planning.device import adapt_dtype
from qtoolkit.planning.fit import judge, vram_of
from qtoolkit.planning.layers import Modules, planner_of
from qtoolkit.planning.mixed_units import notes_on_mixed_units
from qtoolkit.planning.phases import base_terms, inference, job_phases, make_job_shape
from qtoolkit.planning.result_readers import loaded_configs, note_on_nobody, with_readers
from qtoolkit.planning.share import with_share_warning
from qtoolkit.records import Machine, Plan, Speed
from qtoolkit.requests import DEFAULT_CONTEXT
from qtoolkit.units import format_bytes


@dataclass(frozen=True)
class PlannedJob:
    """Everything that `plan_job` decides about a job.

    Attributes:
        checkpoint: the model in the type that its device has, with notes of what was decided.
        config: the config with "auto" resolved, as it fits the model's layers.
        plan: what the job does and needs.
        planner: what planned the layers.
    """

    checkpoint: Checkpoint
    config: MethodConfig
    plan: Plan
    planner: Method | Reader


def plan_job(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine | None,
    *,
    rss: int,
    method: Method | Reader | None = None,
    saves: bool = True,
    measures: int = 0,
    context: int = DEFAULT_CONTEXT,
    batch_size: int = 1,
    modules: Modules | None = None,
    for_: str | None = None,
) -> PlannedJob:
    """Resolve "auto" for a model and a device, and plan the quantization.

    Args:
        checkpoint: the model, its headers read.
        config: the options of the method.
        device: where the result will live, "cpu" or "cuda:0".
        machine: the machine to plan for; None to leave open whether the job fits.
        rss: resident bytes of this process now.
        method: the reader of a checkpoint that is quantized already; None for the config's method.
        saves: whether the result is written to the disk.
        measures: how many choices of bits the sensitivity of layers is measured for first; 0 to measure nothing.
        context: tokens for which using the result is planned.
        batch_size: sequences for which using the result is planned.
        modules: plans of the checkpoint's modules, to share among several plans of it; None for this plan alone.
        for_: the program that shall load the result; None for none in particular.

    Raises:
        ConfigError: the config fits no layer of the model; or `for_` is no program that is known to read the format.
        UnsupportedModelError: no layer is left to quantize.
    """
    method = method or get_method(config.method)
    checkpoint = adapt_dtype(checkpoint, device, machine)
    config = method.resolve(config, str(checkpoint.dtype).removeprefix("torch."), device)
    checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    modules = modules or Modules(checkpoint)
    if isinstance(method, Method):
        method = planner_of(method, checkpoint, config, device=device, modules=modules)
    config, layers, skipped = modules.planned(method, config, device)
    buffers = {id(buffer): buffer.nbytes for buffer in checkpoint.skeleton.buffers()}
    in_memory = sum(layer.bytes_after for layer in (*layers, *skipped)) + sum(buffers.values())
    in_memory += modules.beside_bytes
    on_disk = sum(layer.disk_bytes for layer in (*layers, *skipped))
    footprint, disk = method.sizes(Sizes(memory=in_memory, disk=on_disk))
    checkpoint = checkpoint.with_notes(*_larger(checkpoint, disk))
    base = base_terms(checkpoint, method.requires, machine, device, rss)
    # A machine with a GPU has the speed of the GPU alone.
    speed = machine.speed if machine and bool(machine.vram) == (device != "cpu") else Speed()
    missing = (
        f"{method.name} needs {REQUIREMENTS[package]}, which is not installed"
        for package in method.requires
        if not is_installed(package)
    )
    mixed = () if isinstance(method, Reader) else notes_on_mixed_units(config, layers, skipped)
    job = make_job_shape(checkpoint, layers, skipped, footprint, device, base, speed)
    job = replace(job, vram=vram_of(machine, device))
    plan = Plan(
        source=checkpoint.record(modules.beside_bytes),
        method=method.name,
        settings=method.settings(config),
        device=device,
        layers=layers,
        skipped=skipped,
        footprint_after=footprint,
        disk_after=disk,
        phases=job_phases(checkpoint, method, config, job, disk, measures),
        inference=inference(checkpoint, job, context, batch_size),
        notes=(*checkpoint.notes, *method.notes(config, layers), *mixed, *missing),
    )
    given = modules.given_values(layers)
    plan = with_readers(plan, config, for_, heads=heads_of(checkpoint.config), given_values=given)
    return PlannedJob(checkpoint, config, judge(plan, machine, saves=saves) if machine else plan, method)


def _larger(checkpoint: Checkpoint, disk: int) -> tuple[str, ...]:
    """Return a note on a result that takes more on the disk than its source, some of which stays expanded."""
    if not checkpoint.stored_as or not checkpoint.disk_size or disk <= checkpoint.disk_size:
        return ()
    sizes = f"takes {format_bytes(disk)} on the disk, more than the {format_bytes(checkpoint.disk_size)} of its source"
    return (f"the result {sizes} in {checkpoint.stored_as}: what is not quantized stays expanded",)


def plan_with_advice(
    checkpoint: Checkpoint,
    config: MethodConfig,
    device: str,
    machine: Machine,
    *,
    rss: int,
    saves: bool = True,
    measures: int = 0,
    context: int = DEFAULT_CONTEXT,
    batch_size: int = 1,
    for_: str | None = None,
) -> PlannedJob:
    """Plan as `plan_job`, and add a warning where few weights are quantized, and advice where the job cannot be done.

    Advice is added to a plan that does not fit, or whose result `for_` would not load.
    """
    modules = Modules(checkpoint)
    draft = partial(
        plan_job,
        checkpoint,
        machine=machine,
        rss=rss,
        saves=saves,
        measures=measures,
        context=context,
        batch_size=batch_size,
        modules=modules,
        for_=for_,
    )
    planned = draft(config=config, device=device)
    plan = with_share_warning(planned.plan, planned.checkpoint, planned.config, modules)
    nobody = note_on_nobody(plan, planned.config)
    plan = replace(plan, notes=(*plan.notes, nobody)) if nobody else plan
    planned = replace(planned, plan=plan)

    def drafted(config: MethodConfig, device: str) -> Plan:
        return draft(config=config, device=device).plan

    if plan.reading is not None and not plan.reading.loads:
        others = loaded_configs(plan, planned.config)
        return replace(planned, plan=replace(plan, advice=advise_reader(plan, others, drafted)))
    if plan.fits:
        return planned
    return replace(planned, plan=replace(plan, advice=advise(plan, planned.config, drafted)))
