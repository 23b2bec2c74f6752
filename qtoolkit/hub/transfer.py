"""Run a transfer in a thread of its own, while the caller's thread reports progress and may stop it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

# Seconds between two reports, and how long to wait for a stopped transfer to end.
_TICK = 0.1
_PATIENCE = 5.0
_Result = TypeVar("_Result")


def transfer(work: Callable[[threading.Event], _Result], report: Callable[[], None]) -> Future[_Result]:
    """Run `work` in a thread of its own, and call `report` about ten times a second until it is done.

    The caller's thread reports, since hf_xet would swallow an exception of `on_progress`, a connection that hangs would
    delay Ctrl-C, and notebooks show only the output of the cell's thread.

    Args:
        work: given an event that is set when it should raise `StoppedError` at the next chance.
        report: called without arguments; what it raises, and Ctrl-C, stops the work.

    Returns:
        The finished future with the result or the exception of `work`.
    """
    stopped = threading.Event()
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(stopped))
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="qtoolkit-transfer", daemon=True).start()
        while not wait([future], timeout=_TICK).done:
            report()
    except BaseException:
        _abort_xet()
        stopped.set()
        wait([future], timeout=_PATIENCE)
        raise
    return future


class StoppedError(Exception):
    """End a transfer from within; it never reaches the user."""


def _abort_xet() -> None:
    """Abort the transfers of hf_xet, as huggingface_hub itself does on Ctrl-C."""
    from huggingface_hub.utils._xet import abort_xet_session

    abort_xet_session()  # type: ignore[no-untyped-call]
