"""A comparison on executors of this process: retries, what is lost, and how it is stopped."""

import gc
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qtoolkit.errors import JobCancelled
from qtoolkit.jobs.candidates import Base, Task
from qtoolkit.records import ProgressEvent
from tests.jobs.compared import compare, figures
from tests.methods.gptq.jobs import gptq

pytestmark = pytest.mark.slow


class LosingExecutor(ThreadPoolExecutor):
    """Loses the first jobs of each form, as an executor does whose workers die."""

    def __init__(self, losses: int) -> None:
        super().__init__(1)
        self.losses, self.tasks = losses, list[Task]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task, form, attempt = args
        self.tasks.append(task)
        if form.label == "AbsMax()" and attempt < self.losses:
            lost: Future[Any] = Future()
            lost.set_exception(OSError("the worker died\nand left a long story"))
            return lost
        return super().submit(fn, *args, **kwargs)


def test_the_figures_are_those_of_one_process(tiny_llama: Path, tmp_path: Path) -> None:
    # Held, so that their ids stay theirs: another test of this process may have left some.
    before = [thing for thing in gc.get_objects() if type(thing) is Base]
    with ThreadPoolExecutor(2) as executor:
        with_speed = {"prompts": ["A"], "speed": True}
        there = compare(tiny_llama, [None, "absmax"], tmp_path / "there", executor=executor, **with_speed)
    gc.collect()
    # Threads are of this process, which keeps no base for the next job when all is done.
    known = set(map(id, before))
    assert not [thing for thing in gc.get_objects() if type(thing) is Base and id(thing) not in known]
    here = compare(tiny_llama, [None, "absmax"], tmp_path / "here", **with_speed)
    assert figures(there) == figures(here)
    assert "speed was measured on the workers, which may differ from one another" in there.notes
    # What was measured elsewhere counts here.
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(
        path.name for path in (tmp_path / "there").iterdir()
    )


@pytest.mark.parametrize(("losses", "retries"), [(2, 2), (3, 2), (1, 0)], ids=["enough", "too few", "none"])
def test_a_lost_job_is_begun_again_so_often(tiny_llama: Path, tmp_path: Path, losses: int, retries: int) -> None:
    with LosingExecutor(losses) as executor:
        options = {"executor": executor, "retries": retries, "token": "hf_secret"}
        found = compare(tiny_llama, ["absmax", "zero_point"], tmp_path, **options)
    results = {result.label: result for result in found.results}
    assert results["ZeroPoint()"].retries == 0 and not results["ZeroPoint()"].error
    lost = results["AbsMax()"]
    assert lost.retries == min(losses, retries)
    assert lost.error == ("OSError: the worker died" if losses > retries else "")
    again = {0: "", 1: "begun again once", 2: "begun again 2 times"}[lost.retries]
    assert again in lost.remark()
    assert len(list(tmp_path.iterdir())) == 2 - bool(lost.error)
    written = "".join(file.read_text() for file in tmp_path.iterdir()) + str(found.to_dict())
    assert all(b"hf_secret" not in pickle.dumps(task) for task in executor.tasks)
    assert "hf_secret" not in written


def test_an_error_that_qtoolkit_knows_is_final(tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "calibration.txt"
    text.write_text("too short")
    with LosingExecutor(0) as executor:
        found = compare(tiny_llama, [gptq(calibration=str(text))], tmp_path / "kept", executor=executor)
    assert found.results[0].error.startswith("ConfigError: ")
    assert found.results[0].retries == 0
    assert len(executor.tasks) == 1


def test_an_executor_that_takes_nothing_more_gives_lines_with_its_error(tiny_llama: Path, tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    found = compare(tiny_llama, ["absmax", "nf4"], tmp_path, executor=executor)
    assert {result.error for result in found.results} == {"RuntimeError: cannot schedule new futures after shutdown"}


class WaitingExecutor(Executor):
    """Takes jobs and never begins one."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.futures.append(Future())
        return self.futures[-1]


@pytest.mark.parametrize("error", [JobCancelled, KeyboardInterrupt], ids=["cancelled", "interrupted"])
def test_a_stop_cancels_what_has_not_begun(tiny_llama: Path, tmp_path: Path, error: type[BaseException]) -> None:
    executor, waited = WaitingExecutor(), threading.Event()

    def stop(event: ProgressEvent) -> None:
        if event.phase == "compare":
            waited.set()
            raise error("stop")

    with pytest.raises(error):
        compare(tiny_llama, ["absmax", "nf4"], tmp_path, executor=executor, on_progress=stop)
    assert waited.is_set()
    assert [future.cancelled() for future in executor.futures] == [True, True]
