"""Run a comparison on other processes or machines: any `concurrent.futures.Executor`, one job for each candidate."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from qtoolkit.errors import QToolkitError
from qtoolkit.jobs.candidates import Base, Candidate, Task, failed_row, measure_candidate, measure_row, open_base
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import open_model
from qtoolkit.measure.guard import guarded
from qtoolkit.planning.device import resolve_device
from qtoolkit.records import Compared, OnProgress, ignore_progress
from qtoolkit.requests import ModelSource

# Seconds until `on_progress` is called again, so that a person can stop what goes on elsewhere.
_HEARTBEAT = 0.5


def run_on(
    executor: Executor, task: Task, candidates: list[Candidate], *, retries: int, on_wait: Callable[[], None]
) -> Generator[tuple[Candidate, Compared], None, None]:
    """Measure candidates on an executor, and yield each result as it comes, in any order.

    A job whose worker was lost, or that failed in a way that qtoolkit does not know, is submitted again. If this ends
    early, jobs that have not begun are cancelled.

    Args:
        executor: does the work.
        task: what all candidates share.
        candidates: what is measured.
        retries: how often a job may be begun again.
        on_wait: called twice a second; what it raises ends all.
    """
    pending: dict[Future[dict[str, Any]], tuple[Candidate, int]] = {}
    waiting = [(candidate, 0) for candidate in candidates]
    try:
        while pending or waiting:
            for candidate, attempt in waiting:
                # The attempt is an argument: a scheduler that remembers calls would answer with the failed one.
                try:
                    pending[executor.submit(measure_in_worker, task, candidate, attempt)] = (candidate, attempt)
                except Exception as error:  # noqa: BLE001  # a broken executor says so in a way of its own
                    yield candidate, replace(failed_row(candidate, task, error), retries=attempt)
            waiting = []
            for future in wait(pending, timeout=_HEARTBEAT, return_when=FIRST_COMPLETED).done:
                candidate, attempt = pending.pop(future)
                try:
                    result = Compared.from_dict(future.result())
                except QToolkitError as error:  # a worker has another version of qtoolkit
                    result = failed_row(candidate, task, error)
                except Exception as error:  # noqa: BLE001  # each executor has its own for a worker that is lost
                    if attempt < retries:
                        waiting.append((candidate, attempt + 1))
                        continue
                    result = failed_row(candidate, task, error)
                yield candidate, replace(result, retries=attempt)
            on_wait()
    finally:
        for future in pending:
            future.cancel()
        # The base that jobs of a pool of threads left in this process.
        _base_cache.forget()


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
