"""A comparison on real workers: processes of the standard library, and a Dask cluster of which a worker is killed."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.compared import compare, figures

pytestmark = pytest.mark.slow

CONFIGS = [None, "absmax", "nf4"]


@pytest.fixture(scope="module")
def here(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """The figures that one process finds."""
    return figures(compare(tiny_llama, CONFIGS, tmp_path_factory.mktemp("here"), prompts=["A"]))


@pytest.mark.long
def test_processes_of_the_standard_library(tiny_llama: Path, tmp_path: Path, here: dict[str, object]) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        found = compare(tiny_llama, CONFIGS, tmp_path, prompts=["A"], executor=executor)
    assert figures(found) == here


@pytest.fixture
def client() -> Iterator[Any]:
    """A client of a Dask cluster of two processes, which tells of a lost worker at once instead of trying again."""
    import dask
    from distributed import Client, LocalCluster

    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(**options) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_dask_worker_that_is_killed_at_its_job(
    tiny_llama: Path, tmp_path: Path, here: dict[str, object], client: Any
) -> None:
    processes, killed = client.run(os.getpid), []

    def kill_one_that_works() -> None:
        # It imports torch first, so that it is far from done.
        while not killed:
            killed.extend([worker for worker, jobs in client.processing().items() if jobs][:1])
            time.sleep(0.02)
        os.kill(processes[killed[0]], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_that_works)
    killer.start()
    found = compare(tiny_llama, CONFIGS, tmp_path, prompts=["A"], executor=client.get_executor())
    killer.join()
    assert figures(found) == here
    assert sum(result.retries for result in found.results) >= 1
    assert [result.error for result in found.results] == ["", "", ""]
    assert "begun again once" in str(found)
