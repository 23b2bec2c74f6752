"""The kernel's stop button, for a job that runs while no cell does."""

import signal
import threading
from collections.abc import Callable
from typing import Any

from IPython import get_ipython


class StopButton:
    """Lets an interrupt of an idle kernel stop a job; one of a running cell stops the cell, as always.

    ipykernel ignores the signal between cells, and sets and restores the handler around each message. So ours is put
    in place by its event loop, between two messages and in the main thread, where alone Python allows that.

    Args:
        stop: called when the button is pressed.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: Any = None

    def listen(self) -> None:
        """Begin to listen; nothing happens where there is no kernel."""
        self._in_main_thread(self._install)

    def leave(self) -> None:
        """Put the handler back that was there before."""
        self._in_main_thread(self._restore)

    def _install(self) -> None:
        if self._before is None:
            self._before = signal.signal(signal.SIGINT, lambda number, frame: self._stop())

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _in_main_thread(self, step: Callable[[], None]) -> None:
        kernel = getattr(get_ipython(), "kernel", None)
        loop = getattr(kernel, "io_loop", None)
        if loop is not None and threading.main_thread().is_alive():
            loop.add_callback(step)
