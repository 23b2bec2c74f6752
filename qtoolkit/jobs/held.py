"""Hold in a worker's process what its last task made, for the next task of the same job."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """Hold one thing, of one job at a time.

    Args:
        close: called with what is held before it is let go.

    Attributes:
        lock: held by the task that uses it.
    """

    def __init__(self, close: Callable[[T], None] = lambda thing: None) -> None:
        self.lock = threading.Lock()
        self._close = close
        # The key of its job, and the thing.
        self._held: tuple[str, T] | None = None

    def get(self, key: str, make: Callable[[], T]) -> T:
        """Return what is held of a job, made anew if the last task was of another.

        Args:
            key: of the job.
            make: makes it.
        """
        if self._held is None or self._held[0] != key:
            self._let_go()
            self._held = key, make()
        return self._held[1]

    def forget(self, key: str) -> None:
        """Free what is held of a job, unless a task that cannot be stopped any more uses it."""
        if self.lock.acquire(blocking=False):
            try:
                if self._held is not None and self._held[0] == key:
                    self._let_go()
            finally:
                self.lock.release()

    def _let_go(self) -> None:
        if self._held is not None:
            self._close(self._held[1])
        self._held = None
