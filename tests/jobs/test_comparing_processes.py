"""Jobs on real workers: processes of the standard library, and a Dask cluster of which a worker is killed."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.records import ProgressEvent
from tests.jobs.compared import compare, figures
from tests.methods.gptq.jobs import gptq

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


@pytest.fixture(scope="module")
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


@contextmanager
def one_that_works_is_killed(client: Any) -> Iterator[None]:
    """Kill a worker at its job, meanwhile."""
    processes, killed = client.run(os.getpid), []

    def kill_one_that_works() -> None:
        # It imports torch first, so that it is far from done.
        while not killed:
            killed.extend([worker for worker, jobs in client.processing().items() if jobs][:1])
            time.sleep(0.02)
        os.kill(processes[killed[0]], signal.SIGKILL)

    killer = threading.Thread(target=kill_one_that_works)
    killer.start()
    yield
    killer.join()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_dask_worker_that_is_killed_at_its_job(
    tiny_llama: Path, tmp_path: Path, here: dict[str, object], client: Any
) -> None:
    with one_that_works_is_killed(client):
        found = compare(tiny_llama, CONFIGS, tmp_path, prompts=["A"], executor=client.get_executor())
    assert figures(found) == here
    assert sum(result.retries for result in found.results) >= 1
    assert [result.error for result in found.results] == ["", "", ""]
    assert "begun again once" in str(found)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_dask_worker_that_is_killed_while_it_quantizes(tiny_llama: Path, tmp_path: Path, client: Any) -> None:
    def kill(event: ProgressEvent) -> None:
        # In the second block, when both work.
        if event.detail == "model.layers.1.self_attn.q_proj":
            stack.enter_context(one_that_works_is_killed(client))

    results = []
    with ExitStack() as stack:
        for name, options in {"there": {"executor": client, "on_progress": kill}, "here": {}}.items():
            qt.quantize(tiny_llama, gptq(shards=3), output=tmp_path / name, device="cpu", **options)
            results.append((tmp_path / name / "model.safetensors").read_bytes())
    assert results[0] == results[1]
