"""Write the receipt of a converted model: one goes on with that of a model of our own, one begins that of another."""

import time
from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.convertible import LAYOUT, Convertible
from qtoolkit.jobs.file_probe import probe_file
from qtoolkit.measure.disk import disk_size
from qtoolkit.measure.host import hardware, versions
from qtoolkit.measure.peak import resident_memory
from qtoolkit.methods import MethodConfig, packages_of_method, reader_of
from qtoolkit.models import structure
from qtoolkit.noted import Noted
from qtoolkit.planning.planner import plan_job
from qtoolkit.publishing import begin_receipt, behaviour_of, receipt_of, write_receipt
from qtoolkit.quantized import quantization_report
from qtoolkit.records import MemoryReport, OnProgress, Plan, Probe, Receipt, TakenOver
from qtoolkit.requests import ModelSource

_LEFT = "not quantized in the checkpoint"


@dataclass(frozen=True)
class _Result:
    """A converted model whose files but the receipt are written.

    Attributes:
        layout: the format, by the name of its way to pack codes.
        config: the config that its files describe.
        plan: how a reader holds it.
        footprint: bytes of it in memory.
        disk: bytes of its weight files.
        notes: what was decided, one line each.
    """

    layout: str
    config: MethodConfig
    plan: Plan
    footprint: int
    disk: int
    notes: tuple[str, ...]


def write_conversion_receipt(
    source: Convertible,
    folder: Path,
    *,
    layout: str,
    file_bytes: int | None,
    notes: tuple[str, ...],
    started: float,
    on_progress: OnProgress,
) -> Noted[str]:
    """Write the receipt of a result whose other files are written.

    The result is read as any checkpoint, so that one that does not fit its config never reaches the output.

    Args:
        source: what was converted.
        folder: of the result.
        layout: what its format calls the way that it packs codes.
        file_bytes: what a program maps of a result that is one file of another program; None for others.
        notes: what was decided, one line each.
        started: when the job began, by `time.monotonic`.
        on_progress: called for each block of a file whose logits are measured, since no receipt has them.

    Returns:
        The method that chose the codes, with notes of what could not be measured.

    Raises:
        CheckpointError: the result cannot be read.
    """
    read_as = reader_of(open_source(folder, ModelSource(), quantized=True, headers_only=True))
    plan = plan_job(read_as.checkpoint, read_as.config, "cpu", None, rss=resident_memory(), method=read_as.reader).plan
    footprint = plan.footprint_after if file_bytes is None else file_bytes
    result = _Result(layout, read_as.config, plan, footprint, disk_size(folder), notes)
    own = receipt_of(source.checkpoint).value
    probe = Noted[Probe | None](own.probe if own else None)
    if file_bytes is not None and probe.value is None:
        probe = probe_file(folder, source.checkpoint, device="cpu", on_progress=on_progress)
    if own is None:
        begun = _begun(source, result, started)
        receipt = begun if file_bytes is None else _of_others_file(begun, source, result)
    else:
        kept = _kept(own, result)
        receipt = _of_our_layers(kept, own, result) if file_bytes is None else _of_our_file(kept, own, source, result)
    write_receipt(folder, replace(receipt, probe=probe.value, notes=(*receipt.notes, *probe.notes)))
    return Noted(plan.method if file_bytes is None else source.config.method, probe.notes)


def _kept(own: Receipt, result: _Result) -> Receipt:
    """Return the receipt of a model of our own with the sizes of the result; what it says of its making still holds."""
    memory = replace(
        own.memory,
        footprint_after=result.footprint,
        predicted_footprint_after=None,
        disk_after=result.disk,
        predicted_disk_after=result.plan.disk_after,
    )
    return replace(own, method=result.config.method, notes=(*own.notes, *result.notes), memory=memory)


def _of_our_layers(kept: Receipt, own: Receipt, result: _Result) -> Receipt:
    """Return the receipt of layers whose method and options still tell how their codes were chosen."""
    stated = result.config.to_dict()
    # Codes without the rounded inputs of their method are those of another.
    recipe = own.settings if result.config.method == own.method else stated
    return replace(
        kept,
        settings={**recipe, **{key: stated[key] for key in LAYOUT & stated.keys()}},
        num_layers=len(result.plan.layers),
        num_quantized=result.plan.num_quantized,
        taken_over=own.taken_over and replace(own.taken_over, format=result.layout),
    )


def _of_our_file(kept: Receipt, own: Receipt, source: Convertible, result: _Result) -> Receipt:
    """Return the receipt of a file of another program, whose config tells nothing of how its codes were chosen."""
    recipe = own.recipe if own.taken_over is None else own.taken_over.recipe
    return replace(
        _with_counts(kept, source),
        settings=result.plan.settings,
        taken_over=TakenOver(recipe=recipe, format=result.layout),
    )


def _begun(source: Convertible, result: _Result, started: float) -> Receipt:
    """Return the receipt of layers of somebody else: with the options alone that say how their codes are stored.

    How they were chosen, nothing tells.
    """
    checkpoint, plan = source.checkpoint, result.plan
    settings = {key: value for key, value in plan.settings.items() if key in LAYOUT}
    memory = MemoryReport(
        num_parameters=plan.source.num_parameters,
        footprint_before=plan.source.footprint,
        footprint_after=result.footprint,
        disk_before=checkpoint.disk_size,
        disk_after=result.disk,
        predicted_disk_after=plan.disk_after,
    )
    base = behaviour_of(checkpoint)
    report = quantization_report(
        replace(plan, source=checkpoint.record(), settings=settings),
        (*checkpoint.notes, *base.notes, *result.notes),
        memory,
        None,
        time.monotonic() - started,
    )
    receipt = begin_receipt(
        checkpoint,
        base=base.value,
        report=report,
        versions=versions(packages_of_method(plan.method)),
        hardware=(hardware("cpu"),),
        probe=None,
    )
    return replace(receipt, taken_over=TakenOver(recipe="", format=result.layout))


def _of_others_file(begun: Receipt, source: Convertible, result: _Result) -> Receipt:
    """Return the receipt of a file of another program with somebody else's codes."""
    linear = (name for name, module in source.model.named_modules() if structure.is_linear(module))
    left = sum(name not in source.layers for name in linear)
    skipped = Counter({_LEFT: left} if left else {})
    return replace(_with_counts(begun, source), settings=result.plan.settings, skipped=skipped)


def _with_counts(receipt: Receipt, source: Convertible) -> Receipt:
    """Return the receipt of a file with the numbers of what was quantized, which its own header does not tell."""
    num_quantized = sum(prod(codes.shape) for codes in source.layers.values())
    return replace(receipt, num_layers=len(source.layers), num_quantized=num_quantized)
