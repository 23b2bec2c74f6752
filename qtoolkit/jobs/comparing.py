"""Run a comparison, from its checks to its report: here, one candidate after the other, or on an executor."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from qtoolkit.jobs.candidates import (
    Candidate,
    Task,
    check_candidate,
    identity_of,
    measure_candidate,
    measure_row,
    open_base,
    read_candidates,
)
from qtoolkit.jobs.checkpoint_opening import open_source, portable_name
from qtoolkit.jobs.evaluating import Opened, cut_windows, open_model
from qtoolkit.jobs.quantizing import refuse_quantized
from qtoolkit.jobs.result_cache import ResultCache, key_of
from qtoolkit.jobs.workers import run_on
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.device import resolve_device
from qtoolkit.records import Compared, Comparison, OnProgress, ProgressEvent, in_order
from qtoolkit.requests import CandidatesRequest, CompareRequest
from qtoolkit.texts.texts import check_texts
from qtoolkit.texts.windows import Windows

KEPT = "the same call goes on with the results that are kept"


@dataclass(frozen=True)
class Subject:
    """The model that candidates are made of and measured against, opened.

    Attributes:
        opened: the model, opened for evaluation.
        checkpoint: the model, opened for quantization.
        device: where candidates run; with an executor, where this process cuts the text.
        on_progress: called with events.
    """

    opened: Opened
    checkpoint: Checkpoint
    device: str
    on_progress: OnProgress


@dataclass(frozen=True)
class Measured:
    """What was measured of all candidates.

    Attributes:
        windows: the text.
        results: one for each candidate, by KL divergence; those that failed come last.
        notes: what was decided, one line each.
    """

    windows: Windows
    results: tuple[Compared, ...]
    notes: tuple[str, ...]


@explained("the comparison", f"give fewer num_tokens; {KEPT}")
def run_comparison(request: CompareRequest) -> Comparison:
    """Compare candidates, as `qtoolkit.compare` describes."""
    started = time.monotonic()
    check_texts(request.text, "text")
    candidates = read_candidates(request.configs)
    subject = open_subject(request, "the comparison")
    measured = measure_candidates(request, subject, candidates, prompts=tuple(request.prompts))
    return Comparison(
        source=subject.checkpoint.record(),
        text=measured.windows.name,
        text_fingerprint=measured.windows.fingerprint,
        results=measured.results,
        prompts=tuple(request.prompts),
        memory_limit=request.memory_limit,
        seconds=time.monotonic() - started,
        notes=measured.notes,
    )


def open_subject(request: CandidatesRequest, what: str) -> Subject:
    """Open the model of a request; `what` names the work in the message of a machine that runs out of memory.

    Raises:
        UnsupportedModelError: it is quantized.
        QToolkitError: as `qtoolkit.load`.
    """
    refuse_quantized(request.model)
    on_progress = guarded(request.report, what, KEPT)
    # Workers may have a GPU that this process lacks: it only cuts the text then.
    device = resolve_device(request.device if request.executor is None else "auto")
    opened = open_model(request.model, request, device=device, on_progress=on_progress, is_base=True)
    checkpoint = opened.checkpoint or open_source(request.model, request, on_progress=on_progress)
    return Subject(opened, checkpoint, device, on_progress)


def measure_candidates(
    request: CandidatesRequest, subject: Subject, candidates: Sequence[Candidate], *, prompts: tuple[str, ...] = ()
) -> Measured:
    """Measure candidates, here or on the request's executor; each result is saved when it is there.

    Args:
        request: the text, the executor, and where results are saved.
        subject: the model.
        candidates: what is measured; all are checked before any work.
        prompts: texts that each candidate continues.

    Raises:
        QToolkitError: a candidate is refused; or as `qtoolkit.evaluate`.
        JobCancelled: somebody stopped the job.
    """
    executor, checkpoint, on_progress = request.executor, subject.checkpoint, subject.on_progress
    weights = [check_candidate(one, checkpoint, subject.device, local=executor is None) for one in candidates]
    cache = ResultCache(request.output)
    windows = cut_windows(request, subject.opened, device=subject.device, on_progress=on_progress)
    task = Task(
        model=portable_name(request.model, checkpoint) if request.is_named else request.model,
        revision=checkpoint.commit_hash,
        identity=identity_of(checkpoint),
        tokenizer=request.tokenizer,
        windows=windows,
        prompts=prompts,
        device=subject.device if executor is None else request.device,
        noise_floor=request.noise_floor,
        speed=request.speed,
    )
    keys = {one.label: key_of(one, own, task) for one, own in zip(candidates, weights, strict=True)}
    results = cache.read(keys) if request.resume else {}
    missing = [one for one in candidates if one.label not in results]

    def report(label: str = "") -> None:
        on_progress(ProgressEvent("compare", len(results), len(candidates), "configs", label))

    if executor is None:
        rows = _measure_here(task, missing, subject, token=request.token)
    else:
        rows = run_on(executor, task, missing, retries=request.retries, on_wait=report)
    with closing(rows):
        for candidate, result in rows:
            results[candidate.label] = result
            cache.write(keys[candidate.label], result)
            report(candidate.label)
    notes = [*windows.notes, *cache.notes()]
    if executor is not None and request.speed:
        notes.append("speed was measured on the workers, which may differ from one another")
    return Measured(windows, in_order(tuple(results.values())), tuple(notes))


def _measure_here(
    task: Task, candidates: Sequence[Candidate], subject: Subject, *, token: str | None
) -> Generator[tuple[Candidate, Compared], None, None]:
    """Measure candidates one after the other; the base computes the text once for all."""
    if not candidates:
        return
    opened = open_base(
        task, subject.opened, subject.checkpoint, device=task.device, token=token, on_progress=subject.on_progress
    )
    with opened as base:
        for one in candidates:
            yield one, measure_row(one, task, partial(measure_candidate, one, base))
