"""What takes long, in threads: callbacks start it and return, whatever thread the kernel calls them in."""

import threading
import time
from collections.abc import Callable
from typing import Any

from qtoolkit.errors import ConfigError

# Seconds without another key before a question is asked.
PAUSE = 0.4


class Lookup:
    """Answers the latest of many questions; those before it are dropped, so that typing never waits.

    Args:
        ask: gives the answer of a question; may be slow.
        show: takes the answer.
        complain: takes what was raised instead.
        pause: seconds without another question before one is asked.
    """

    def __init__(
        self,
        ask: Callable[..., Any],
        show: Callable[[Any], None],
        complain: Callable[[Exception], None],
        *,
        pause: float = PAUSE,
    ) -> None:
        self._ask, self._show, self._complain, self._pause = ask, show, complain, pause
        # Reentrant: an answer that is shown may change a field, which asks again.
        self._lock = threading.RLock()
        self._number = 0
        self._threads: list[threading.Thread] = []

    def want(self, *question: Any) -> None:
        """Ask, unless another question comes within the pause."""
        with self._lock:
            self.drop()
            arguments = (self._number, question)
            # A daemon: a Hub that does not answer keeps no kernel from ending.
            thread = threading.Thread(target=self._answer, args=arguments, name="qtoolkit-lookup", daemon=True)
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            thread.start()

    def drop(self) -> None:
        """Forget the question: its answer, should it come, is not shown."""
        with self._lock:
            self._number += 1

    def wait(self) -> None:
        """Wait until all questions are answered or dropped."""
        for thread in self._threads:
            thread.join()

    def _answer(self, number: int, question: tuple[Any, ...]) -> None:
        if self._pause:
            time.sleep(self._pause)
        if number != self._number:
            return
        try:
            answer = self._ask(*question)
            self._give(number, self._show, answer)
        except Exception as error:  # noqa: BLE001  # a thread's traceback goes where nobody looks
            self._give(number, self._complain, error)

    def _give(self, number: int, take: Callable[[Any], None], answer: Any) -> None:
        """Hand an answer on, unless another question came meanwhile."""
        with self._lock:
            if number == self._number:
                take(answer)


class Worker:
    """Runs one job at a time in a thread.

    Attributes:
        cancelled: set when somebody wants the job to stop.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        # Two callbacks in two threads start one job.
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job.

        Raises:
            ConfigError: one runs already.
        """
        with self._lock:
            if self.running:
                raise ConfigError("a job is running: wait until it ends, or cancel it")
            self.cancelled.clear()
            self._thread = threading.Thread(target=job, name="qtoolkit-job", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the job has ended, or so many seconds have passed."""
        if self._thread is not None:
            self._thread.join(timeout)
