"""A transfer in a thread of its own, while the caller's thread reports and may stop it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

# Seconds between two reports, and how long a stopped transfer may take to let go of the network.
_TICK = 0.1
_PATIENCE = 5.0
_Result = TypeVar("_Result")


def transfer(work: Callable[[threading.Event], _Result], report: Callable[[], None]) -> Future[_Result]:
    """Do `work` in a thread of its own, and call `report` about ten times a second until it is done.

    hf_xet would swallow an exception of `on_progress`, a connection that hangs would delay Ctrl-C, and notebooks want
    their output from the cell's thread: so the caller's thread reports.

    Args:
        work: given an event that is set when it should raise `StoppedError` at the next chance.
        report: what it raises, and Ctrl-C, stops the work.

    Returns:
        What came of the work; done.
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
    """Ends a transfer from within; nobody sees it."""


def _abort_xet() -> None:
    """End what hf_xet transfers, as huggingface_hub itself does on Ctrl-C."""
    from huggingface_hub.utils._xet import abort_xet_session

    abort_xet_session()  # type: ignore[no-untyped-call]
