"""Run one quantization, from its checks to its report; what it writes is renamed when it is complete."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.files import current_folder
from qtoolkit.hub.mirror import HubMirror
from qtoolkit.jobs.bit_budget import meet_target, with_rules_of
from qtoolkit.jobs.checkpoint_loading import load_opened
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.file_probe import probe_file
from qtoolkit.jobs.file_workers import round_in_parts
from qtoolkit.jobs.part_workers import quantize_in_parts
from qtoolkit.jobs.shard_workers import SHARDS_KEPT, ExecutorWorkers
from qtoolkit.jobs.shared_parts import PARTS_KEPT
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.measure.host import hardware, this_machine, versions
from qtoolkit.measure.peak import measure_peak, resident_memory
from qtoolkit.methods import Method, Outcome, WeightOnlyMethod, get_method, packages_of_method, resolve_config
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.output_checks import refuse_own_source
from qtoolkit.models.provenance import identify
from qtoolkit.models.structure import is_linear
from qtoolkit.noted import Noted
from qtoolkit.optional import optional
from qtoolkit.planning.device import resolve_device
from qtoolkit.planning.fit import check_fits
from qtoolkit.planning.planner import PlannedJob, plan_with_advice
from qtoolkit.planning.result_readers import note_on_nobody, refuse_unread
from qtoolkit.planning.shared_out import worker_memory
from qtoolkit.publishing import begin_receipt, behaviour_of, write_receipt
from qtoolkit.quantized import QuantizedModel, base_folder, memory_report, quantization_report, save_measured
from qtoolkit.quantized_file import QuantizedFile, write_file
from qtoolkit.records import OnProgress, Plan, Probe, Speed
from qtoolkit.requests import ModelSource, QuantizeRequest
from qtoolkit.stream.journal import JournalLocation
from qtoolkit.stream.staging import check_output, journal_of, staged

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADVICE = "qt.plan tells what needs less; blocks that a calibrated job had done are kept, and the same call goes on"


@explained("quantizing", _ADVICE)
def run_quantization(
    request: QuantizeRequest, *, change: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint
) -> QuantizedModel:
    """Quantize a model, as `qtoolkit.quantize` describes; what is quantized is what `change` makes of it."""
    refuse_quantized(request.model)
    started = time.monotonic()
    config = resolve_config(request.config)
    method = get_method(config.method)
    device = resolve_device(request.device)
    if request.executor is not None:
        method.refuse_workers(config)
    for package in method.requires:
        optional(package, f"method {method.name!r}")
    folder = request.folder
    in_parts = request.executor is not None and method.makes_parts(config)
    mirror = _mirror(request, method, resumes=method.resumes(config))
    resumes = method.resumes(config) or in_parts
    _check_output(request, method, resumes=resumes)
    with _staged(request, resumes=resumes) as new:
        with measure_peak() as meter:
            checkpoint = change(open_source(request.model, request, on_progress=request.report))
            workers = _workers(request, checkpoint, new, in_parts=in_parts)
            machine = this_machine(folder or current_folder(), Speed())
            rss = resident_memory()
            journal = JournalLocation(journal_of(folder), mirror) if folder is not None and resumes else None
            advice = f"{PARTS_KEPT if journal else 'nothing was written'}; qt.plan tells what needs less"
            on_progress = guarded(request.report, f"{method.name} of {checkpoint.name}", advice)
            config = with_rules_of(config, journal)
            met = meet_target(checkpoint, config, device, machine, rss=rss, on_progress=on_progress)
            planned = plan_with_advice(
                checkpoint.with_notes(*met.notes),
                met.config,
                device,
                machine,
                rss=rss,
                saves=folder is not None,
                measures=met.num_measured,
                for_=request.for_,
            )
            refuse_unread(planned.plan)
            check_fits(planned.plan, in_parts=in_parts)
            quantizes = _sharing(method, workers, planned, new, in_parts=in_parts)
            checkpoint = identify(planned.checkpoint, on_progress)
            plan = replace(planned.plan, source=replace(planned.plan.source, commit_hash=checkpoint.commit_hash))
            base = behaviour_of(checkpoint)
            outcome = quantizes(checkpoint, planned.config, plan, on_progress, journal)
            _refuse_unquantized(outcome, plan)
            written = _write(outcome, checkpoint, method, folder=new, device=device, on_progress=on_progress)
        memory = memory_report(plan, written.footprint, new, meter.report)
        nobody = filter(None, [note_on_nobody(plan, planned.config)])
        notes = (*checkpoint.notes, *base.notes, *outcome.notes, *written.probe.notes, *nobody)
        seconds = time.monotonic() - started
        report = quantization_report(plan, notes, memory, folder, seconds, outcome.calibration)
        deciding = versions(packages_of_method(method.name))
        receipt = begin_receipt(checkpoint, base.value, report, deciding, (hardware(device),), written.probe.value)
        if new is not None:
            receipt = write_receipt(new, receipt)
    if outcome.model is None:
        assert folder is not None
        opens = partial(_open_result, folder, device)
        return QuantizedFile(opens, checkpoint.tokenizer, planned.config, report, receipt)
    return QuantizedModel(outcome.model, checkpoint.tokenizer, planned.config, report, receipt)


def _workers(
    request: QuantizeRequest, checkpoint: Checkpoint, new: Path | None, *, in_parts: bool
) -> ExecutorWorkers | None:
    """Return the workers of a request, which can do the job; None without an executor.

    Args:
        request: the request.
        checkpoint: the model, opened.
        new: the folder that the result is written to.
        in_parts: whether they make the parts of the result each for itself.

    Raises:
        ConfigError: a worker cannot do the job.
    """
    if request.executor is None:
        return None
    workers = ExecutorWorkers(request, checkpoint, kept=PARTS_KEPT if in_parts else SHARDS_KEPT)
    workers.check(new, request.report)
    return workers


def _sharing(
    method: Method, workers: ExecutorWorkers | None, planned: PlannedJob, new: Path | None, *, in_parts: bool
) -> Callable[..., Outcome]:
    """Return the `quantize` of a method, given workers if there are some; the other arguments are as above.

    Raises:
        InsufficientMemoryError: a worker may not use as much memory as the job needs.
    """
    if workers is None:
        return method.quantize
    assert new is not None
    workers.check_memory(worker_memory(planned))
    if in_parts and isinstance(method, WeightOnlyMethod):
        base = base_folder(planned.checkpoint.path, planned.checkpoint.name)
        return partial(quantize_in_parts, workers=workers, method=method, folder=new, base=base)
    if in_parts:
        return partial(round_in_parts, workers=workers, method=method)
    # Methods that take no workers have refused them.
    quantize: Any = method.quantize
    return partial(quantize, workers=workers)


def _check_output(request: QuantizeRequest, method: Method, *, resumes: bool) -> None:
    """Refuse an output that cannot be written, or that is missing where the result is a file.

    Raises:
        QToolkitError: as `check_output`.
    """
    folder = request.folder
    if folder is not None:
        refuse_own_source(request.model, folder)
        check_output(folder, overwrite=request.overwrite, unfinished=resumes or not request.resume)
    elif method.writes_file:
        name = method.config_class.__name__
        raise ConfigError(f"{name} writes a file for other programs: give output=, the folder for it")


def _refuse_unquantized(outcome: Outcome, plan: Plan) -> None:
    """Refuse a result in which layers that the plan quantizes are as they were: its figures would be false.

    Raises:
        UnsupportedModelError: there are such layers.
    """
    if outcome.model is None:
        return
    left = [layer.name for layer in plan.layers if is_linear(outcome.model.get_submodule(layer.name))]
    if left:
        layers = f"{len(left)} of {len(plan.layers)} layers"
        what = f"{plan.method} left {left[0]} of {plan.source.name} as it was ({layers})"
        raise UnsupportedModelError(f"{what}, and nothing was written: take another method, or exclude them")


class _Written(NamedTuple):
    """What a result takes, and what was seen of it.

    Attributes:
        footprint: bytes of its tensors in memory.
        probe: its logits on a few tokens; None where they were not measured, with notes of what was left out.
    """

    footprint: int
    probe: Noted[Probe | None]


def _write(
    outcome: Outcome,
    checkpoint: Checkpoint,
    method: Method,
    *,
    folder: Path | None,
    device: str,
    on_progress: OnProgress,
) -> _Written:
    """Write a result into a new folder; without one, a model stays in memory."""
    if outcome.is_written:
        assert outcome.footprint is not None
        note = "its logits were not measured, since no process has it whole, and no qt.verify can compare them"
        return _Written(outcome.footprint, Noted(None, (note,)))
    base = base_folder(checkpoint.path, checkpoint.name)
    if outcome.file is not None:
        assert folder is not None
        written = write_file(outcome.file, checkpoint, folder, device=device, on_progress=on_progress, base=base)
        probe = probe_file(folder, checkpoint, device=device, on_progress=on_progress)
        return _Written(written.value, replace(probe, notes=(*written.notes, *probe.notes)))
    assert outcome.model is not None
    method.prepare(outcome.model)
    footprint = memory_footprint(outcome.model) if outcome.footprint is None else outcome.footprint
    if folder is None:
        return _Written(footprint, Noted(None))
    return _Written(footprint, save_measured(outcome.model, checkpoint.tokenizer, folder, on_progress, base))


def _open_result(folder: Path, device: str) -> "PreTrainedModel":
    """Load the model of a result from its folder."""
    opened = load_opened(open_source(folder, ModelSource(), quantized=True), device)
    return opened.model if isinstance(opened, QuantizedModel) else opened


def _mirror(request: QuantizeRequest, method: Method, *, resumes: bool) -> HubMirror | None:
    """Return the repository that the journal is pushed to; None if none is named.

    Raises:
        ConfigError: there is no journal to push.
    """
    if not request.resume_repo:
        return None
    mirror = HubMirror(request.resume_repo, request.token)
    if request.folder is None or not resumes:
        why = "output=" if resumes else f"a job with calibration, and this one of {method.name} has none"
        raise ConfigError(f"resume_repo={request.resume_repo!r} needs {why}: leave it out, or give that")
    if not request.resume:
        raise ConfigError(
            f"resume_repo={request.resume_repo!r} goes on with what is there, and resume=False starts anew: give one"
        )
    return mirror


def refuse_quantized(model: Any) -> None:
    """Refuse a model that is the result of a job already."""
    if isinstance(model, QuantizedModel):
        name = model.report.source.name
        raise UnsupportedModelError(
            f"{name} is quantized already ({model.report.method}): name the full-precision model"
        )


def _staged(request: QuantizeRequest, *, resumes: bool) -> AbstractContextManager[Path | None]:
    """Return the folder that the result is written to until it is complete; None if it stays in memory only."""
    if request.folder is None:
        return nullcontext()
    return staged(request.folder, overwrite=request.overwrite, resume=request.resume and resumes)
