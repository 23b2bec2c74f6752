"""One quantization, from its checks to its report; what it writes is renamed when it is whole."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from qtoolkit.errors import ConfigError, UnsupportedModelError
from qtoolkit.files import current_folder, path_of
from qtoolkit.hub.mirror import HubMirror
from qtoolkit.jobs.target import meet_target, with_rules_of
from qtoolkit.measure import (
    explained,
    guarded,
    hardware,
    measure_peak,
    memory_footprint,
    resident_memory,
    this_machine,
    versions,
)
from qtoolkit.methods import Method, MethodConfig, get_method, packages_of_method
from qtoolkit.models import identify, open_checkpoint, refuse_own_source
from qtoolkit.noted import Noted
from qtoolkit.optional import optional
from qtoolkit.planning import check_fits, plan_with_advice, resolve_device
from qtoolkit.publishing import begin_receipt, behaviour_of, write_receipt
from qtoolkit.quantized import QuantizedModel, memory_report, quantization_report, save_measured
from qtoolkit.records import OnProgress, Probe, Speed
from qtoolkit.stream import JournalPlace, check_output, journal_of, staged

_ADVICE = "qt.plan tells what needs less; blocks that a calibrated job had done are kept, and the same call goes on"


@explained("quantizing", _ADVICE)
def quantize_model(
    model: Any,
    settings: MethodConfig,
    *,
    output: str | PathLike[str] | None,
    device: str,
    revision: str | None,
    token: str | None,
    tokenizer: Any,
    resume: bool,
    resume_repo: str | None,
    overwrite: bool,
    on_progress: OnProgress,
) -> QuantizedModel:
    """Do what `qtoolkit.quantize` tells, with the config resolved; its arguments are that verb's."""
    refuse_quantized(model)
    method, place, started = get_method(settings.method), resolve_device(device), time.monotonic()
    for package in method.requires:
        optional(package, f"method {method.name!r}")
    folder = None if output is None else path_of(output, "output")
    mirror = _mirror(resume_repo, token, method, saves=folder is not None, resume=resume)
    if folder is not None:
        refuse_own_source(model, folder)
        check_output(folder, overwrite=overwrite, unfinished=method.resumes or not resume)
    with _place_to_work(folder, overwrite=overwrite, resume=resume and method.resumes) as partial:
        with measure_peak() as meter:
            checkpoint = open_checkpoint(
                model, revision=revision, token=token, tokenizer=tokenizer, on_progress=on_progress
            )
            here = this_machine(folder or current_folder(), Speed())
            saves, rss = folder is not None, resident_memory()
            journal = JournalPlace(journal_of(folder), mirror) if folder is not None and method.resumes else None
            kept = (
                "blocks that are done are kept, and the same call goes on with them"
                if journal
                else "nothing was written"
            )
            advice = f"{kept}; qt.plan tells what needs less"
            on_progress = guarded(on_progress, f"{method.name} of {checkpoint.name}", advice)
            settings = with_rules_of(settings, journal)
            met = meet_target(checkpoint, settings, place, here, rss=rss, on_progress=on_progress)
            planned = plan_with_advice(
                checkpoint.with_notes(*met.notes),
                met.config,
                place,
                here,
                rss=rss,
                saves=saves,
                measures=met.num_measured,
            )
            check_fits(planned.plan)
            checkpoint = identify(planned.checkpoint, on_progress)
            made = replace(planned.plan, source=replace(planned.plan.source, commit_hash=checkpoint.commit_hash))
            base = behaviour_of(checkpoint)
            outcome = method.quantize(checkpoint, planned.config, made, on_progress, journal)
            quantized = outcome.model
            method.prepare(quantized)
            footprint = memory_footprint(quantized)
            probe: Noted[Probe | None] = Noted(None)
            if partial is not None:
                probe = save_measured(quantized, checkpoint.tokenizer, partial, on_progress)
        memory = memory_report(made, footprint, partial, meter.report)
        notes = (*checkpoint.notes, *base.notes, *outcome.notes, *probe.notes)
        seconds = time.monotonic() - started
        report = quantization_report(made, notes, memory, folder, seconds, outcome.calibration)
        deciding = versions(packages_of_method(method.name))
        receipt = begin_receipt(checkpoint, base.value, report, deciding, (hardware(place),), probe.value)
        if partial is not None:
            receipt = write_receipt(partial, receipt)
    return QuantizedModel(quantized, checkpoint.tokenizer, planned.config, report, receipt)


def _mirror(
    resume_repo: str | None, token: str | None, method: Method, *, saves: bool, resume: bool
) -> HubMirror | None:
    """The repository that the journal is pushed to; None where none is named.

    Raises:
        ConfigError: there is no journal to push.
    """
    if not resume_repo:
        return None
    mirror = HubMirror(resume_repo, token)
    if not saves or not method.resumes:
        why = "output=" if method.resumes else f"a method with calibration, and {method.name} has none"
        raise ConfigError(f"resume_repo={resume_repo!r} needs {why}: leave it out, or give that")
    if not resume:
        raise ConfigError(
            f"resume_repo={resume_repo!r} goes on with what is there, and resume=False starts anew: give one"
        )
    return mirror


def refuse_quantized(model: Any) -> None:
    """Refuse a model that is the result of a job already."""
    if isinstance(model, QuantizedModel):
        name = model.report.source.name
        raise UnsupportedModelError(
            f"{name} is quantized already ({model.report.method}): name the full-precision model"
        )


@contextmanager
def _place_to_work(folder: Path | None, *, overwrite: bool, resume: bool) -> Iterator[Path | None]:
    """A folder for the result until it is whole; None when it is kept in memory only."""
    if folder is None:
        yield None
    else:
        with staged(folder, overwrite=overwrite, resume=resume) as partial:
            yield partial
