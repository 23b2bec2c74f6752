"""Workers of a Dask cluster without the memory for a job are found before work, and never waited for without end."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, InsufficientMemoryError, JobCancelled
from qtoolkit.jobs import dask_workers
from qtoolkit.records import ProgressEvent
from tests.methods.gptq.jobs import gptq

pytestmark = pytest.mark.slow


def cluster(**options: Any) -> Any:
    import distributed

    dask: Any = distributed
    options = {"n_workers": 1, "processes": False, "threads_per_worker": 1, "dashboard_address": ":0"} | options
    return dask.LocalCluster(**options)


@pytest.fixture
def client() -> Iterator[Any]:
    """A client of one worker in this process, which Dask pauses: 300 MB are less than torch alone takes."""
    import distributed

    dask: Any = distributed
    with cluster(memory_limit="300MB") as one, dask.Client(one, set_as_default=False) as found:
        # Dask looks at memory ten times a second, and takes tasks until then.
        while any(worker.status != dask.Status.paused for worker in one.workers.values()):
            time.sleep(0.02)
        yield found


def quantized(model: Path, output: Path, client: Any, **options: Any) -> None:
    qt.quantize(model, gptq(shards=2), output=output, device="cpu", executor=client, **options)


def test_paused_workers_end_a_job_in_one_line(
    tiny_llama: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_workers, "_ASKED_EVERY", 0.1)
    monkeypatch.setattr(dask_workers, "_IDLE_FOR", 0.5)
    with pytest.raises(InsufficientMemoryError, match="no worker takes tasks, since Dask pauses") as caught:
        quantized(tiny_llama, tmp_path / "out", client)
    said = str(caught.value)
    assert "of 300.0 MB in use: start workers with a larger memory_limit" in said and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_job_is_cancelled_while_workers_do_not_answer(tiny_llama: Path, tmp_path: Path, client: Any) -> None:
    def stop(event: ProgressEvent) -> None:
        if "look at the model" in event.detail:
            raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        quantized(tiny_llama, tmp_path / "out", client, on_progress=stop)
    assert not list(tmp_path.iterdir())


class Workers:
    """What a client tells of workers: limits by address, as the scheduler of Dask 2026.8 answers."""

    def __init__(self, **limits: int) -> None:
        self.limits = limits

    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": {address: {"memory_limit": limit} for address, limit in self.limits.items()}}


def test_a_memory_limit_below_the_plan_is_said_before_work() -> None:
    # 0 is no limit.
    dask_workers.refuse_small(Workers(one=0, two=500), 500, kept="all is kept")
    with pytest.raises(InsufficientMemoryError) as caught:
        dask_workers.refuse_small(Workers(one=0, two=499, three=1), 500, kept="all is kept")
    assert str(caught.value) == (
        "worker two may use 499 bytes (Dask's memory_limit), and the job needs 500 bytes in each, and 1 more workers "
        "have too little: start workers with a larger memory_limit; all is kept"
    )


def test_a_worker_that_is_lost_while_it_looks_around_is_left_out(
    tiny_llama: Path, tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask waits for ever for the one worker that a task was given to."""
    asked = client.nthreads()
    answers = [asked, asked, {}]
    monkeypatch.setattr(client, "nthreads", lambda: answers.pop(0) if answers else {})
    with pytest.raises(ConfigError, match="was lost before any work; workers are lost mostly where memory runs out"):
        quantized(tiny_llama, tmp_path / "out", client)
    assert not list(tmp_path.iterdir())
