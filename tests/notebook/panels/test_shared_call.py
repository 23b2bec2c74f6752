"""The field Workers of the panel Quantize: processes that begin and end with the job, or a Dask cluster."""

import sys
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace
from typing import Any, Self

import pytest

from qtoolkit import api
from qtoolkit.errors import ConfigError
from qtoolkit.notebook.panels.shared_call import SharedCall
from tests.notebook.panels.conftest import told

ADDRESS = "tcp://192.168.1.20:8786"


def call(workers: str) -> SharedCall:
    return SharedCall("quantize", ("m", "gptq"), {"output": "out"}, into="q", workers=workers)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options that `quantize` is called with."""
    found = list[dict[str, Any]]()
    monkeypatch.setattr(api, "quantize", lambda *arguments, **options: found.append(options))
    return found


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a client of Dask that answers at once has seen: addresses, and "closed" at the end."""
    seen = list[str]()

    class Client:
        def __init__(self, address: str, **options: Any) -> None:
            if "nowhere" in address:
                raise OSError("no route")
            seen.append(address)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    return seen


def test_what_is_shown_is_python_that_makes_the_same_call(given: list[dict[str, Any]], client: list[str]) -> None:
    for workers in ("3", ADDRESS, ""):
        exec(str(call(workers)), {"qt": api})  # noqa: S102
    pool, dask, none = given
    assert (pool.pop("executor")._max_workers, type(dask.pop("executor")).__name__) == (3, "Client")
    assert pool == dask == none == {"output": "out"}
    assert client == [ADDRESS]


def test_workers_begin_and_end_with_the_job(given: list[dict[str, Any]], client: list[str]) -> None:
    for workers in ("3", ADDRESS, ""):
        call(workers).run(on_progress=None)
    pool = given[0]["executor"]
    assert type(pool) is ProcessPoolExecutor and pool._max_workers == 3
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pow, 2, 3)
    assert client == [ADDRESS, "closed"]
    assert given[2] == {"output": "out", "on_progress": None}


def test_a_scheduler_that_does_not_answer_is_named(given: list[dict[str, Any]], client: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"Workers tcp://nowhere:1: no scheduler answers there \(no route\): start"):
        call("tcp://nowhere:1").run()
    assert not given


def test_the_panel_has_the_field(open_panel: Any, given: list[dict[str, Any]]) -> None:
    quantize = open_panel("m", only="quantize").quantize
    start = quantize.runner.actions["Quantize"].press
    quantize.workers.value = "many"
    start()
    assert "Workers must be a number of processes, or an address of Dask such as tcp://host:8786, got" in told(quantize)
    quantize.workers.value, quantize.output.value, quantize.into.value = "4", "", "q"
    start()
    assert "Save to is empty: give a folder that all workers see" in told(quantize)
    assert not given
    assert "executor=ProcessPoolExecutor(4, " in quantize.call.value
    quantize.workers.value = ""
    assert "executor" not in quantize.call.value


def test_what_is_wrong_with_workers_stands_beside_the_field(open_panel: Any, client: list[str]) -> None:
    panel = open_panel("m", only="quantize")
    panel.quantize.workers.value = "tcp://nowhere:1"
    panel.quantize.runner.actions["Quantize"].press()
    panel.worker.wait(30)
    assert "no scheduler answers there" in panel.quantize.workers.problem
