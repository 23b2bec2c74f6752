"""Ask a Dask cluster for its workers: which there are, what memory each may use, whether any still takes a task."""

import time
from concurrent.futures import Executor
from typing import Any

from qtoolkit.errors import InsufficientMemoryError
from qtoolkit.units import format_bytes

# Seconds between two questions to the scheduler, and for how long all workers may do nothing.
_ASKED_EVERY = 5.0
_IDLE_FOR = 20.0


def client_of(executor: Executor) -> Any | None:
    """Return the Dask client of an executor; None of any other."""
    # Its executor names its client nowhere else.
    client = getattr(executor, "_client", None)
    return client if hasattr(client, "nthreads") else None


def refuse_small(client: Any, needed: int, *, kept: str) -> None:
    """Refuse workers that Dask ends before a task has the memory that it needs.

    Args:
        client: of the cluster.
        needed: bytes of a worker at its peak.
        kept: ends the message.

    Raises:
        InsufficientMemoryError: there are such workers; the message names one.
    """
    workers = client.scheduler_info()["workers"]
    # A limit of 0 is none.
    limits = {address: worker["memory_limit"] for address, worker in workers.items() if worker["memory_limit"]}
    small = [address for address, limit in limits.items() if limit < needed]
    if small:
        more = f", and {len(small) - 1} more workers have too little" if len(small) > 1 else ""
        raise InsufficientMemoryError(
            f"worker {small[0]} may use {format_bytes(limits[small[0]])} (Dask's memory_limit), and the job needs "
            f"{format_bytes(needed)} in each{more}: start workers with a larger memory_limit; {kept}"
        )


class PausedWorkers:
    """Find out that no worker of a cluster takes tasks any more: Dask pauses those whose memory is nearly used up.

    Args:
        client: of the cluster.
        kept: ends the message.
    """

    def __init__(self, client: Any, *, kept: str) -> None:
        self._client = client
        self._kept = kept
        self._asked = self._busy = time.monotonic()

    def refuse(self) -> None:
        """Ask for the workers, every few seconds at most.

        Raises:
            InsufficientMemoryError: all have been paused for a while, and none is at a task.
        """
        now = time.monotonic()
        if now < self._asked + _ASKED_EVERY or self._client.status != "running":
            return
        self._asked = now
        workers = self._client.scheduler_info()["workers"]
        if not workers or any(map(_is_busy, workers.values())):
            self._busy = now
        elif now >= self._busy + _IDLE_FOR:
            address, worker = next(iter(workers.items()))
            raise InsufficientMemoryError(
                f"no worker takes tasks, since Dask pauses those whose memory is nearly used up: {address} has "
                f"{format_bytes(worker['metrics']['memory'])} of {format_bytes(worker['memory_limit'])} in use: start "
                f"workers with a larger memory_limit; {self._kept}"
            )


def _is_busy(worker: dict[str, Any]) -> bool:
    """Return whether a worker is at a task, or takes one."""
    return worker["status"] != "paused" or bool(worker["metrics"]["task_counts"].get("executing"))
