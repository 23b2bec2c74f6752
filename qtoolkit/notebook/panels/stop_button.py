"""Let the kernel's stop button cancel a job that runs while no cell does."""

import signal
from collections.abc import Callable
from typing import Any

from IPython import get_ipython

# Seconds until it is checked again whether a cell still runs.
_RETRY = 0.5


class StopButton:
    """A signal handler that cancels a job when an idle kernel is interrupted; a running cell is interrupted as always.

    ipykernel ignores the signal between cells, and sets and restores the handler around each message. So this handler
    is installed by the kernel's event loop, between two messages, and in the main thread, as Python requires.

    Args:
        cancel: called when the button is pressed.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._wanted = False

    def __call__(self, *signal_and_frame: Any) -> None:
        """Handle the signal."""
        self._cancel()

    def listen(self) -> None:
        """Install the handler; without a kernel nothing happens."""
        self._schedule(wanted=True)

    def leave(self) -> None:
        """Let the kernel ignore the signal again."""
        self._schedule(wanted=False)

    def _schedule(self, *, wanted: bool) -> None:
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
            # A cell that awaits something lets the loop run, but keeps its handler until it ends.
            loop.call_later(_RETRY, self._settle, loop)
