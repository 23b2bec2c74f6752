"""A comparison on other processes or machines: any `concurrent.futures.Executor`, one job for each form."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from qtoolkit.errors import QToolkitError
from qtoolkit.jobs.evaluating import open_model
from qtoolkit.jobs.forms import Base, Form, Task, failed, measure_form, open_base, row_of
from qtoolkit.measure import guarded
from qtoolkit.models import open_checkpoint
from qtoolkit.planning import resolve_device
from qtoolkit.records import Compared, OnProgress, ignore_progress

# Seconds until `on_progress` is called again, so that a person can stop what goes on elsewhere.
_HEARTBEAT = 0.5


def run_on(
    executor: Executor, task: Task, forms: list[Form], *, retries: int, on_wait: Callable[[], None]
) -> Generator[tuple[Form, Compared], None, None]:
    """Measure forms on an executor, each result as it comes, in any order.

    A job whose worker was lost, or that failed in a way that qtoolkit does not know, is given to the executor again.
    Whatever ends this early cancels what has not begun.

    Args:
        executor: where the work is done.
        task: what all forms share.
        forms: what is measured.
        retries: how often a job may be begun again.
        on_wait: called twice a second; what it raises ends all.
    """
    pending: dict[Future[dict[str, Any]], tuple[Form, int]] = {}
    waiting = [(form, 0) for form in forms]
    try:
        while pending or waiting:
            for form, attempt in waiting:
                # The attempt is an argument: a scheduler that remembers calls would answer with the failed one.
                try:
                    pending[executor.submit(measure_in_worker, task, form, attempt)] = (form, attempt)
                except Exception as error:  # noqa: BLE001  # a broken executor says so in a way of its own
                    yield form, replace(failed(form, task.device, error), retries=attempt)
            waiting = []
            for future in wait(pending, timeout=_HEARTBEAT, return_when=FIRST_COMPLETED).done:
                form, attempt = pending.pop(future)
                try:
                    result = Compared.from_dict(future.result())
                except QToolkitError as error:  # a worker has another version of qtoolkit
                    result = failed(form, task.device, error)
                except Exception as error:  # noqa: BLE001  # each executor has its own for a worker that is lost
                    if attempt < retries:
                        waiting.append((form, attempt + 1))
                        continue
                    result = failed(form, task.device, error)
                yield form, replace(result, retries=attempt)
            on_wait()
    finally:
        for future in pending:
            future.cancel()
        # What jobs kept in this very process: those of a pool of threads.
        _kept_base.forget()


def measure_in_worker(task: Task, form: Form, attempt: int) -> dict[str, Any]:
    """A form's row as a dict, measured in the process that this is called in; one at a time, whatever its threads.

    The Hub is asked with the token that this machine has.
    """

    def measure() -> Compared:
        device = resolve_device(task.device)
        on_progress = guarded(ignore_progress, "the comparison", "give workers more memory, or fewer num_tokens")
        base = _kept_base.get(task, device, on_progress)
        return measure_form(form, task, base, device=device, token=None, on_progress=on_progress)

    with _kept_base.lock:
        return row_of(form, task.device, measure).to_dict()


class _KeptBase:
    """The base's pass over a text, kept for the next job that this process gets; one at a time.

    Attributes:
        lock: held by the job that uses it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._key: tuple[Any, ...] = ()
        self._base: Base | None = None
        self._open = ExitStack()

    def get(self, task: Task, device: str, on_progress: OnProgress) -> Base:
        """The base of a task.

        Raises:
            QToolkitError: as `qtoolkit.evaluate`.
        """
        windows = task.windows
        key = (str(task.model), task.identity, windows.fingerprint, windows.first, device, task.noise_floor)
        if self._base is None or key != self._key:
            self.close()
            sources = {"revision": task.revision, "token": None, "tokenizer": task.tokenizer}
            opened = open_model(task.model, device=device, sources=sources, on_progress=on_progress)
            checkpoint = opened.checkpoint or open_checkpoint(task.model, **sources, on_progress=on_progress)
            self._base = self._open.enter_context(
                open_base(task, opened, checkpoint, device=device, on_progress=on_progress)
            )
            self._key = key
        return self._base

    def close(self) -> None:
        """Let go of what is kept."""
        self._base = None
        self._open.close()

    def forget(self) -> None:
        """Let go of what is kept, unless a job that cannot be stopped any more uses it."""
        if self.lock.acquire(blocking=False):
            self.close()
            self.lock.release()


_kept_base = _KeptBase()
