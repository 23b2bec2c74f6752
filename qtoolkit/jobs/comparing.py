"""Run a comparison, from its checks to its report: here, one candidate after the other, or on an executor."""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from qtoolkit.files import path_of
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
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import Opened, cut_windows, open_model
from qtoolkit.jobs.quantizing import refuse_quantized
from qtoolkit.jobs.result_cache import ResultCache, key_of
from qtoolkit.jobs.workers import run_on
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.device import resolve_device
from qtoolkit.records import Compared, Comparison, OnProgress, ProgressEvent, in_order
from qtoolkit.requests import CompareRequest
from qtoolkit.texts.texts import check_texts

_KEPT = "the same call goes on with the results that are kept"


@explained("the comparison", f"give fewer num_tokens; {_KEPT}")
def run_comparison(request: CompareRequest) -> Comparison:
    """Compare candidates, as `qtoolkit.compare` describes."""
    started = time.monotonic()
    check_texts(request.text, "text")
    candidates = read_candidates(request.configs)
    refuse_quantized(request.model)
    on_progress = guarded(request.report, "the comparison", _KEPT)
    executor = request.executor
    # Workers may have a GPU that this process lacks: it only cuts the text then.
    device = resolve_device(request.device if executor is None else "auto")
    opened = open_model(request.model, request, device=device, on_progress=on_progress)
    checkpoint = opened.checkpoint or open_source(request.model, request, on_progress=on_progress)
    weights = [check_candidate(one, checkpoint, device, local=executor is None) for one in candidates]
    cache = ResultCache(request.output)
    windows = cut_windows(request, opened, device=device, on_progress=on_progress)
    task = Task(
        model=_portable_name(request, checkpoint),
        revision=checkpoint.commit_hash,
        identity=identity_of(checkpoint),
        tokenizer=request.tokenizer,
        windows=windows,
        prompts=tuple(request.prompts),
        device=device if executor is None else request.device,
        noise_floor=request.noise_floor,
    )
    keys = {one.label: key_of(one, own, task) for one, own in zip(candidates, weights, strict=True)}
    results = cache.read(keys) if request.resume else {}
    missing = [one for one in candidates if one.label not in results]

    def report(label: str = "") -> None:
        on_progress(ProgressEvent("compare", len(results), len(candidates), "configs", label))

    if executor is None:
        rows = _measure_here(task, missing, opened, checkpoint, token=request.token, on_progress=on_progress)
    else:
        rows = run_on(executor, task, missing, retries=request.retries, on_wait=report)
    with closing(rows):
        for candidate, result in rows:
            results[candidate.label] = result
            cache.write(keys[candidate.label], result)
            report(candidate.label)
    speeds = () if executor is None else ("speed was measured on the workers, which may differ from one another",)
    return Comparison(
        source=checkpoint.record(),
        text=windows.name,
        text_fingerprint=windows.fingerprint,
        results=in_order(tuple(results.values())),
        prompts=tuple(request.prompts),
        memory_limit=request.memory_limit,
        seconds=time.monotonic() - started,
        notes=(*windows.notes, *cache.notes(), *speeds),
    )


def _portable_name(request: CompareRequest, checkpoint: Checkpoint) -> Any:
    """Return the model as other processes find it: an id without its revision, which is pinned, or an absolute path."""
    if not request.is_named:
        return request.model
    return checkpoint.name if checkpoint.commit_hash else str(path_of(request.model, "model"))


def _measure_here(
    task: Task,
    candidates: Sequence[Candidate],
    opened: Opened,
    checkpoint: Checkpoint,
    *,
    token: str | None,
    on_progress: OnProgress,
) -> Generator[tuple[Candidate, Compared], None, None]:
    """Measure candidates one after the other; the base computes the text once for all."""
    if not candidates:
        return
    with open_base(task, opened, checkpoint, device=task.device, token=token, on_progress=on_progress) as base:
        for one in candidates:
            yield one, measure_row(one, task, partial(measure_candidate, one, base))
