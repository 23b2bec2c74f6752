"""Run a comparison on other processes or machines: any `concurrent.futures.Executor`, one job for each candidate."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from qtoolkit.errors import QToolkitError
from qtoolkit.jobs.candidates import Base, Candidate, Task, failed_row, measure_candidate, measure_row, open_base
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import open_model
from qtoolkit.jobs.executor_tasks import Answer, answers
from qtoolkit.measure.guard import guarded
from qtoolkit.planning.device import resolve_device
from qtoolkit.records import Compared, OnProgress, ignore_progress
from qtoolkit.requests import ModelSource


def run_on(
    executor: Executor, task: Task, candidates: list[Candidate], *, retries: int, on_wait: Callable[[], None]
) -> Generator[tuple[Candidate, Compared], None, None]:
    """Measure candidates on an executor, and yield each result as it comes, in any order.

    Jobs are begun again and cancelled as `answers` says.

    Args:
        executor: does the work.
        task: what all candidates share.
        candidates: what is measured.
        retries: how often a job may be begun again.
        on_wait: called twice a second; what it raises ends all.
    """
    calls = [(task, candidate) for candidate in candidates]
    try:
        with closing(answers(executor, measure_in_worker, calls, retries=retries, on_wait=on_wait)) as found:
            for answer in found:
                candidate = candidates[answer.number]
                yield candidate, replace(_row_of(answer, candidate, task), retries=answer.retries)
    finally:
        # The base that jobs of a pool of threads left in this process.
        _base_cache.forget()


def _row_of(answer: Answer, candidate: Candidate, task: Task) -> Compared:
    """Return the row of a candidate, or one that says why there is none."""
    if answer.error is not None:
        return failed_row(candidate, task, answer.error)
    try:
        return Compared.from_dict(answer.result)
    except QToolkitError as error:  # a worker has another version of qtoolkit
        return failed_row(candidate, task, error)


def measure_in_worker(task: Task, candidate: Candidate, attempt: int) -> dict[str, Any]:
    """Measure a candidate in this process, one at a time whatever its threads, and return its row as a dict.

    The Hub is asked with the token of this machine.
    """

    def measure() -> Compared:
        device = resolve_device(task.device)
        on_progress = guarded(ignore_progress, "the comparison", "give workers more memory, or fewer num_tokens")
        return measure_candidate(candidate, _base_cache.get(task, device, on_progress))

    with _base_cache.lock:
        return measure_row(candidate, task, measure).to_dict()


class _BaseCache:
    """Hold the base of the last job for the next one that this process gets.

    Attributes:
        lock: held by the job that uses the base.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._base: Base | None = None
        self._open = ExitStack()

    def get(self, task: Task, device: str, on_progress: OnProgress) -> Base:
        """Return the base of a task, opened anew if the last one was another.

        Raises:
            QToolkitError: as `qtoolkit.evaluate`.
        """
        windows = task.windows
        key = (str(task.model), task.identity, windows.fingerprint, windows.first, device, task.noise_floor)
        if self._base is None or key != self._key:
            self.close()
            source = ModelSource(revision=task.revision, tokenizer=task.tokenizer)
            opened = open_model(task.model, source, device=device, on_progress=on_progress, is_base=True)
            checkpoint = opened.checkpoint or open_source(task.model, source, on_progress=on_progress)
            self._base = self._open.enter_context(
                open_base(task, opened, checkpoint, device=device, token=None, on_progress=on_progress)
            )
            self._key = key
        return self._base

    def close(self) -> None:
        """Free the base."""
        self._base = None
        self._open.close()

    def forget(self) -> None:
        """Free the base, unless a job that cannot be stopped any more uses it."""
        if self.lock.acquire(blocking=False):
            self.close()
            self.lock.release()


_base_cache = _BaseCache()
