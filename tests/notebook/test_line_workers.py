"""`%quantize` with workers: processes that it starts, a Dask cluster that it finds, an executor in a variable."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from qtoolkit import api
from qtoolkit.errors import ConfigError
from qtoolkit.jobs.executor_tasks import take_one_thread
from qtoolkit.notebook.magic_errors import MagicError

LINE = "%quantize folder --method gptq --shards 2 --output out"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The executors that `quantize` is called with."""
    found = list[Any]()

    def quantize(model: Any, config: Any, *, executor: Any = None, **options: Any) -> Any:
        found.append(executor)
        return SimpleNamespace(report=executor)

    monkeypatch.setattr(api, "quantize", quantize)
    yield found
    del found[:]


def run(shell: InteractiveShell, cell: str) -> Any:
    result = shell.run_cell(cell)
    result.raise_error()
    return result.result


def test_workers_are_processes_of_one_thread_which_end_with_the_job(shell: InteractiveShell, given: list[Any]) -> None:
    run(shell, f"{LINE} --workers 3")
    (pool,) = given
    assert type(pool) is ProcessPoolExecutor
    # Of a pool that has not begun; what its processes are made with is told nowhere else.
    assert (pool._max_workers, pool._initializer) == (3, take_one_thread)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pow, 2, 3)


@pytest.mark.long
def test_a_scheduler_of_dask_is_found_by_its_address(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    def quantize(model: Any, config: Any, *, executor: Any, **options: Any) -> Any:
        return SimpleNamespace(report=executor.submit(pow, 2, 5).result())

    monkeypatch.setattr(api, "quantize", quantize)
    with LocalCluster(n_workers=1, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster:
        assert run(shell, f"{LINE} --dask {cluster.scheduler_address}") == 32


def test_a_variable_holds_an_executor(shell: InteractiveShell, given: list[Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        shell.user_ns["pool"] = pool
        run(shell, f"{LINE} --executor pool")
        assert given == [pool]
        assert isinstance(pool, Executor) and pool.submit(pow, 2, 3).result() == 8


BAD = {
    "none": ("--workers 0", r"--workers must be a number of processes from 1 to 1,024, got '0'"),
    "words": ("--workers many", "--workers must be a number of processes .*, got 'many'"),
    "too many": ("--workers 2000", "--workers must be .*, got '2000'"),
    "two ways": ("--workers 2 --dask tcp://localhost:1", "--workers and --dask both say who does the work: give one"),
    "variable too": ("--workers 2 --executor pool", "--executor and --workers both say"),
    "no address": ("--dask nowhere:port", "--dask nowhere:port: no scheduler answers there"),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_one_line(shell: InteractiveShell, given: list[Any], options: str, said: str) -> None:
    with pytest.raises(MagicError, match=said) as caught:
        run(shell, f"{LINE} {options}")
    assert "\n" not in str(caught.value)
    assert not given


def test_a_scheduler_that_does_not_answer(
    shell: InteractiveShell, given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtoolkit.notebook.line_workers._ANSWERS_IN", 0.2)
    with pytest.raises(MagicError, match=r"--dask tcp://127\.0\.0\.1:9: no scheduler answers there .*: start one with"):
        run(shell, f"{LINE} --dask tcp://127.0.0.1:9")
    assert not given


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("executor= needs output=, a folder", "--workers needs --output, a folder"),
        ("AbsMax is made in one process: leave out executor", "in one process: leave out --workers"),
        ("mine/executor/x is no model of executor-1", "mine/executor/x is no model of executor-1"),
    ],
    ids=["option", "advice", "paths"],
)
def test_errors_name_what_the_line_says(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    def quantize(*arguments: Any, **options: Any) -> Any:
        raise ConfigError(message)

    monkeypatch.setattr(api, "quantize", quantize)
    with pytest.raises(MagicError) as caught:
        run(shell, f"{LINE} --workers 1")
    assert str(caught.value).endswith(said)


def test_a_plan_takes_the_number_of_workers_alone(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "plan", lambda model, config, **options: options)
    assert run(shell, "%qplan folder --method nf4 --workers 4") == {"workers": 4}
    with pytest.raises(MagicError, match=r"--workers must be a number of processes .*, got 'x'"):
        run(shell, "%qplan folder --method nf4 --workers x")


def test_one_thread_is_left_to_torch() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        take_one_thread()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
