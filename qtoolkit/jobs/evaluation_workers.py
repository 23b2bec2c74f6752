"""Run one evaluation on other processes or machines: each worker measures some of the windows."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from qtoolkit.evaluation.scoring import Predictor, Scorer, StreamedScorer
from qtoolkit.evaluation.token_losses import WindowLosses, quality_report, windows_losses
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_opening import open_source, portable_name
from qtoolkit.jobs.evaluating import (
    LESS,
    NOISE_WINDOWS,
    Opened,
    open_evaluation,
    open_model,
    with_noise_floor,
    with_origin,
)
from qtoolkit.jobs.shard_workers import ExecutorWorkers, naming_worker
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.measure.host import hardware
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.device import resolve_device
from qtoolkit.records import ProgressEvent, QualityReport, ignore_progress
from qtoolkit.requests import EvaluateRequest, ModelSource
from qtoolkit.texts.windows import Windows

# Parts of the windows where an executor does not tell how many workers it has.
_PARTS = 8
_AGAIN = "nothing is kept, and the same call begins anew"


@dataclass(frozen=True)
class NamedModel:
    """Name a model as any process finds it; it can be pickled, and opens the model where it is called.

    Attributes:
        name: a Hub id, or the path of a folder or file.
        commit_hash: of the Hub id.
        is_base: whether others are compared with it.
    """

    name: str
    commit_hash: str | None
    is_base: bool

    def __call__(self) -> Checkpoint:
        """Open its checkpoint with the Hub token of this machine."""
        return open_source(self.name, ModelSource(revision=self.commit_hash), quantized=True, expands=self.is_base)

    def open(self, device: str) -> Opened:
        """Open it for an evaluation, with the Hub token of this machine."""
        source = ModelSource(revision=self.commit_hash)
        on_progress = guarded(ignore_progress, "the evaluation", LESS)
        is_base = self.is_base
        return open_model(
            self.name, source, device=device, on_progress=on_progress, runs_gguf=not is_base, is_base=is_base
        )


@dataclass(frozen=True)
class EvaluationTask:
    """Hold a part of an evaluation, which any worker can measure; it can be pickled.

    Attributes:
        model: what is measured.
        base: what it is compared with; None for nothing.
        device: as it was asked for, "auto" or another.
        windows: those of the part.
        before: how many windows come before them.
        is_floor: measure what rounding alone does to the base, in place of the model.
    """

    model: NamedModel
    base: NamedModel | None
    device: str
    windows: Windows
    before: int = 0
    is_floor: bool = False


class MeasuredPart(NamedTuple):
    """Hold what a worker measured.

    Attributes:
        losses: of each window.
        notes: what was decided while models were opened, one line each.
        hardware: the name of the worker's.
    """

    losses: list[WindowLosses]
    notes: tuple[str, ...]
    hardware: str


@explained("the evaluation", LESS)
def run_shared_evaluation(request: EvaluateRequest) -> QualityReport:
    """Measure a model on the workers of the request's executor; this process opens models, and cuts the text.

    Each window is measured as `run_evaluation` does, and figures are computed here from the losses of all windows in
    their order, so that they depend on nothing but each process' arithmetic.
    """
    started = time.monotonic()
    # Workers may have a GPU that this process lacks.
    device = resolve_device("auto")
    on_progress = guarded(request.report, "the evaluation", LESS)
    candidate, reference, windows = open_evaluation(request, device=device, on_progress=on_progress)
    model, workers = _named(request, request.model, is_base=False)
    base = _named(request, request.base, is_base=True)[0] if request.base is not None else None
    part_of = partial(EvaluationTask, model=model, base=base, device=request.device)
    count = len(windows.tokens)
    parts = min(count, workers.count or _PARTS)
    bounds = [count * part // parts for part in range(parts + 1)]
    tasks = [part_of(windows=windows.part(start, end), before=start) for start, end in pairwise(bounds)]
    few = windows.part(0, NOISE_WINDOWS)
    if request.noise_floor:
        tasks.append(part_of(windows=few, is_floor=True))
    found: dict[int, MeasuredPart] = {}

    def report() -> None:
        done = sum(len(part.losses) for number, part in found.items() if number < parts)
        on_progress(ProgressEvent("evaluate", done, count, "windows", candidate.scorer.name))

    for answer in workers.run(measure_part, [(task,) for task in tasks], report):
        found.update([answer])
    losses = [window for number in range(parts) for window in found[number].losses]
    name = reference.scorer.name if reference else None
    result = quality_report(windows, losses, model=candidate.scorer.name, base=name)
    result = with_origin(result, candidate, reference.checkpoint if reference else None, device)
    if request.noise_floor:
        floor = quality_report(few, found[parts].losses, model=str(name), base=name)
        result = with_noise_floor(result, floor)
    kinds = dict.fromkeys(found[number].hardware for number in sorted(found))
    notes = [note for number in range(parts) for note in found[number].notes]
    if request.speed:
        notes.append("speed was not measured, since the windows were shared out to workers")
    if len(kinds) > 1:
        notes.append(f"workers of {len(kinds)} kinds of hardware measured it, whose last digits may differ")
    return replace(
        result,
        hardware=next(iter(kinds)),
        seconds=time.monotonic() - started,
        notes=(*result.notes, *dict.fromkeys(notes)),
    )


def _named(request: EvaluateRequest, model: Any, *, is_base: bool) -> tuple[NamedModel, ExecutorWorkers]:
    """Return a model of the request as workers find it, and the workers, which all read the same of it.

    Raises:
        ConfigError: a worker cannot take part; the message names it.
    """
    # The revision is the model's.
    source = ModelSource(revision=None if is_base else request.revision, token=request.token)
    checkpoint = open_source(model, source, quantized=True, expands=is_base)
    named = NamedModel(portable_name(model, checkpoint), checkpoint.commit_hash, is_base)
    workers = ExecutorWorkers(request, checkpoint, opens=named, kept=_AGAIN)
    workers.check(None, request.report)
    return named, workers


def measure_part(task: EvaluationTask, attempt: int) -> MeasuredPart:
    """Measure some windows in this process, one part at a time whatever its threads.

    Args:
        task: the part.
        attempt: how often this was begun before.

    Raises:
        QToolkitError: it fails and would fail again; the message names the worker.
    """
    with naming_worker(_AGAIN), _one_at_a_time:
        device = resolve_device(task.device)
        reference = task.base.open(device) if task.base else None
        exact: Scorer | None = reference.scorer if reference else None
        if task.is_floor:
            assert reference is not None
            assert reference.checkpoint is not None
            measured = reference
            exact = StreamedScorer(reference.checkpoint, device, torch.float32)
        else:
            measured = task.model.open(device)
        with _predictor(exact, task.windows) as expected, _predictor(measured.scorer, task.windows) as predictor:
            assert predictor is not None
            with quiet_layers():
                losses = windows_losses(task.windows, predictor, expected, ignore_progress, before=task.before)
        of_reference = (*reference.notes, *expected.notes) if reference and expected else ()
        notes = (*of_reference, *measured.notes, *predictor.notes)
        return MeasuredPart(losses, notes, hardware(device))


@contextmanager
def _predictor(scorer: Scorer | None, windows: Windows) -> Iterator[Predictor | None]:
    """Open a model to predict windows; None without one."""
    if scorer is None:
        yield None
        return
    with scorer.open(windows.tokens, guarded(ignore_progress, "the evaluation", LESS)) as predictor:
        yield predictor


# Held by the part that is measured: a pool of threads has one memory.
_one_at_a_time = threading.Lock()
