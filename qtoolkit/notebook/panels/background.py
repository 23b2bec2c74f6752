"""Run slow work in threads, so that callbacks of widgets return at once, in whatever thread the kernel calls them."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from qtoolkit.errors import ConfigError

# Seconds without another key before a question is asked.
PAUSE = 0.4


@dataclass
class Lookup:
    """Answer the latest of many questions in a thread; earlier ones are dropped, so that typing never waits.

    Args:
        ask: returns the answer of a question; may be slow.
        on_answer: called with the answer.
        on_error: called with the error that `ask` or `on_answer` raised.
        pause: seconds without another question before one is asked.
    """

    ask: Callable[..., Any]
    on_answer: Callable[[Any], None]
    on_error: Callable[[Exception], None]
    pause: float = PAUSE
    # Reentrant: showing an answer may change a field, which asks again.
    _lock: AbstractContextManager[Any] = field(default_factory=threading.RLock, init=False)
    _number: int = field(default=0, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)

    def start(self, *question: Any) -> None:
        """Ask a question, unless another one follows within the pause."""
        with self._lock:
            self.drop()
            arguments = (self._number, question)
            # A daemon: a Hub that does not answer keeps no kernel from ending.
            thread = threading.Thread(target=self._answer, args=arguments, name="qtoolkit-lookup", daemon=True)
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            thread.start()

    def drop(self) -> None:
        """Forget the question: if its answer comes, it is not shown."""
        with self._lock:
            self._number += 1

    def wait(self) -> None:
        """Wait until all questions are answered or dropped."""
        for thread in self._threads:
            thread.join()

    def _answer(self, number: int, question: tuple[Any, ...]) -> None:
        if self.pause:
            time.sleep(self.pause)
        if number != self._number:
            return
        try:
            answer = self.ask(*question)
            self._hand_on(number, self.on_answer, answer)
        except Exception as error:  # noqa: BLE001  # a thread's traceback goes where nobody looks
            self._hand_on(number, self.on_error, error)

    def _hand_on(self, number: int, callback: Callable[[Any], None], value: Any) -> None:
        """Call `callback` with an answer or error, unless another question was asked meanwhile."""
        with self._lock:
            if number == self._number:
                callback(value)


class Worker:
    """Run one job at a time in a thread.

    Attributes:
        cancelled: set when somebody wants the job to stop.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._waiting: list[Callable[[], None]] = []
        # Two callbacks in two threads start one job.
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Return whether a job runs."""
        return self._busy

    def start(self, job: Callable[[], None]) -> None:
        """Start a job.

        Raises:
            ConfigError: another one runs.
        """
        with self._lock:
            if self._busy:
                raise ConfigError("a job is running: wait until it ends, or cancel it")
            self.cancelled.clear()
            self._busy = True
            self._thread = threading.Thread(target=self._work, args=(job,), name="qtoolkit-job", daemon=True)
            self._thread.start()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once no job runs, at once if none does: what was said of the job is then no longer true."""
        with self._lock:
            if self._busy:
                self._waiting.append(callback)
                return
        callback()

    def _work(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            with self._lock:
                self._busy = False
                waiting, self._waiting = self._waiting, []
            for callback in waiting:
                callback()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the job has ended, or so many seconds have passed."""
        if self._thread is not None:
            self._thread.join(timeout)
