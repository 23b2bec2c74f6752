"""Calls on an executor that loses its scheduler or its workers."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from qtoolkit.jobs import executor_tasks
from qtoolkit.jobs.executor_tasks import answers


class DaskExecutor(Executor):
    """An executor with a client, as Dask's is, which answers the first call alone."""

    def __init__(self) -> None:
        self._client = SimpleNamespace(status="running")
        self.given = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if not self.given:
            future.set_result(fn(*args, **kwargs))
        self.given += 1
        return future


def test_calls_fail_once_dask_has_given_up_its_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_tasks, "HEARTBEAT", 0.001)
    executor, waited = DaskExecutor(), list[str]()

    def on_wait() -> None:
        waited.append(executor._client.status)
        # While it looks for its scheduler, answers may still come.
        executor._client.status = {"running": "connecting", "connecting": "closed"}[waited[-1]]

    first, *others = answers(executor, max, [(3,), (4,), (5,)], retries=2, on_wait=on_wait)
    assert (first.number, first.result, first.error) == (0, 3, None)
    assert [(one.number, str(one.error)) for one in others] == [
        (1, "Dask's scheduler is lost"),
        (2, "Dask's scheduler is lost"),
    ]
    assert waited == ["running", "connecting"]
    assert executor.given == 3


@pytest.mark.parametrize(
    ("error", "begun"),
    [
        (OSError("the worker died"), 3),
        (KilledWorker("a task", "a worker", 0), 3),
        (KilledWorker("a task", "a worker", 3), 1),
    ],
    ids=["a lost worker", "a lost worker of Dask", "four"],
)
def test_a_call_that_has_ended_several_workers_is_not_begun_again(error: Exception, begun: int) -> None:
    attempts = list[int]()

    def end(attempt: int) -> None:
        attempts.append(attempt)
        raise error

    with ThreadPoolExecutor(1) as executor:
        (answer,) = answers(executor, end, [()], retries=2, on_wait=lambda: None)
    assert answer.error is error and (answer.number, answer.retries) == (0, begun - 1)
    assert attempts == [*range(begun)]
