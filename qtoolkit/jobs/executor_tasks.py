"""Submit calls to any `concurrent.futures.Executor`, and begin again those whose worker was lost."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any, NamedTuple

from qtoolkit.errors import QToolkitError

# Seconds until `on_wait` is called again, so that a person can stop what goes on elsewhere.
HEARTBEAT = 0.5


def take_one_thread() -> None:
    """Let torch use one thread in this process, which others of its kind share a machine with."""
    import torch

    torch.set_num_threads(1)


class Answer(NamedTuple):
    """Hold what came of a call.

    Attributes:
        number: of the call.
        result: what it returned; None if it failed.
        error: why it failed; None if it did not.
        retries: how often it was begun again.
    """

    number: int
    result: Any
    error: Exception | None
    retries: int


def dask_status(executor: Executor) -> str:
    """Return what the Dask client of an executor says of itself, "running" or "closed"; "running" of any other."""
    # Its executor names its client nowhere else.
    return getattr(getattr(executor, "_client", None), "status", "running")


def answers(
    executor: Executor,
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    retries: int,
    on_wait: Callable[[], None],
) -> Generator[Answer, None, None]:
    """Call a function with each of some arguments on an executor, and yield each answer as it comes, in any order.

    A call whose worker was lost, or that failed in a way that qtoolkit does not know, is submitted again. If this ends
    early, calls that have not begun are cancelled. A Dask client that loses its scheduler tries for as long as its own
    timeout to find it again, 30 seconds by default, before all calls count as failed.

    Args:
        executor: does the work.
        function: takes the arguments of a call, and behind them how often it was begun before: a scheduler that
            remembers calls would answer with the failed one.
        calls: arguments.
        retries: how often a call may be begun again.
        on_wait: called twice a second; what it raises ends all.
    """
    pending: dict[Future[Any], tuple[int, int]] = {}
    waiting = [(number, 0) for number in range(len(calls))]
    try:
        while pending or waiting:
            for number, attempt in waiting:
                try:
                    pending[executor.submit(function, *calls[number], attempt)] = (number, attempt)
                except Exception as error:  # noqa: BLE001  # a broken executor says so in a way of its own
                    yield Answer(number, None, error, attempt)
            waiting = []
            for future in wait(pending, timeout=HEARTBEAT, return_when=FIRST_COMPLETED).done:
                number, attempt = pending.pop(future)
                try:
                    answer = Answer(number, future.result(), None, attempt)
                except QToolkitError as error:  # known, and the same again: or another version of qtoolkit
                    answer = Answer(number, None, error, attempt)
                except Exception as error:  # noqa: BLE001  # each executor has its own for a worker that is lost
                    # Dask has begun it again itself, on as many workers, and lost them all.
                    if attempt < retries and not getattr(error, "allowed_failures", 0):
                        waiting.append((number, attempt + 1))
                        continue
                    answer = Answer(number, None, error, attempt)
                yield answer
            if dask_status(executor) == "closed":
                # It lost its scheduler, and leaves what it was asked for without an answer for ever.
                lost = ConnectionError("Dask's scheduler is lost")
                yield from (Answer(number, None, lost, attempt) for number, attempt in pending.values())
                return
            on_wait()
    finally:
        for future in pending:
            future.cancel()
