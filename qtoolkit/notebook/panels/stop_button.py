"""The kernel's stop button, for a job that runs while no cell does."""

import signal
from collections.abc import Callable
from typing import Any

from IPython import get_ipython

# Seconds until it is looked again whether a cell still runs.
_RETRY = 0.5


class StopButton:
    """Lets an interrupt of an idle kernel stop a job; one of a running cell stops the cell, as always.

    ipykernel ignores the signal between cells, and sets and restores the handler around each message. So ours is put
    in place by its event loop, between two messages and in the main thread, where alone Python allows that.

    Args:
        stop: called when the button is pressed.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop, self._wanted = stop, False

    def __call__(self, *signal_and_frame: Any) -> None:
        """Handle the signal."""
        self._stop()

    def listen(self) -> None:
        """Begin to listen; nothing happens where there is no kernel."""
        self._want(True)

    def leave(self) -> None:
        """Let the kernel ignore the signal again."""
        self._want(False)

    def _want(self, wanted: bool) -> None:
        self._wanted = wanted
        loop = getattr(getattr(get_ipython(), "kernel", None), "io_loop", None)
        if loop is not None:
            loop.add_callback(self._settle, loop)

    def _settle(self, loop: Any) -> None:
        now = signal.getsignal(signal.SIGINT)
        if not self._wanted:
            if now is self:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        elif now is signal.SIG_IGN or isinstance(now, StopButton):
            signal.signal(signal.SIGINT, self)
        else:
            # A cell that awaits something leaves the loop to others, and keeps the button until it ends.
            loop.call_later(_RETRY, self._settle, loop)
