"""GPTQ with `propagate=False`: each block is quantized by itself, on the inputs of the full-precision model."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import qtoolkit as qt
from qtoolkit.errors import ConfigError, JobCancelled
from qtoolkit.jobs.shard_workers import do_task
from qtoolkit.records import ProgressEvent
from qtoolkit.stream.shard_worker import ShardWorker
from tests.jobs.test_quantizing_workers import tiny_mixtral
from tests.methods.gptq.jobs import gptq

__all__ = ["tiny_mixtral"]

pytestmark = pytest.mark.slow


def quantized(model: Path, output: Path, *, executor: Any = None, **changes: Any) -> Path:
    """The file of weights that a job writes."""
    options = {name: changes.pop(name) for name in ("on_progress", "retries") if name in changes}
    config = gptq(**{"propagate": False, "shards": 3} | changes)
    qt.quantize(model, config, output=output, device="cpu", executor=executor, **options)
    return output / "model.safetensors"


def of_block(file: Path, index: int) -> dict[str, torch.Tensor]:
    """The codes of a block."""
    return {key: value for key, value in load_file(file).items() if f"layers.{index}." in key and "qweight" in key}


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    return quantized(tiny_llama, tmp_path_factory.mktemp("whole") / "out")


def test_a_block_gets_what_the_full_precision_model_gives_it(tiny_llama: Path, tmp_path: Path, whole: Path) -> None:
    usual = quantized(tiny_llama, tmp_path / "usual", propagate=True)
    codes = of_block(whole, 0), of_block(whole, 1)
    assert codes[0] and all(torch.equal(value, codes[0][key]) for key, value in of_block(usual, 0).items())
    assert not all(torch.equal(value, codes[1][key]) for key, value in of_block(usual, 1).items())
    # The second block of a model whose first is left as it is gets the same.
    alone = quantized(tiny_llama, tmp_path / "alone", propagate=True, exclude=("layers.0.*", "*.layers.0.*"))
    assert of_block(alone, 1).keys() == codes[1].keys()
    assert all(torch.equal(value, codes[1][key]) for key, value in of_block(alone, 1).items())


class CountingExecutor(ThreadPoolExecutor):
    """Counts tasks by their name, and loses each block's first one."""

    def __init__(self) -> None:
        super().__init__(2)
        self.tasks = list[str]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is do_task:
            name = args[1].func.__name__
            self.tasks.append(name)
            if name == ShardWorker.quantize_block.__name__ and not args[-1]:
                lost: Future[Any] = Future()
                lost.set_exception(OSError("the worker died"))
                return lost
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("tiny_llama", {}), ("tiny_mixtral", {"shards": 1})],
    ids=["dense", "experts, one shard"],
)
def test_workers_give_what_one_process_gives(
    kind: str, changes: Mapping[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    here = request.getfixturevalue("whole") if kind == "tiny_llama" else quantized(model, tmp_path / "here", **changes)
    with CountingExecutor() as executor:
        there = quantized(model, tmp_path / "there", executor=executor, **changes)
    assert there.read_bytes() == here.read_bytes()
    assert executor.tasks.count("quantize_block") == 2 * 2
    # The samples go through the first block alone: nothing follows the second.
    assert executor.tasks.count("advance") == changes.get("shards", 3)
    assert not list(tmp_path.glob("*.partial"))


def stop(event: ProgressEvent) -> None:
    if event.phase == "quantize" and event.done == 7:
        raise JobCancelled("stop")


@pytest.mark.parametrize("first", ["workers", "one process"])
def test_a_job_goes_on_elsewhere(tiny_llama: Path, tmp_path: Path, whole: Path, first: str) -> None:
    with CountingExecutor() as executor:
        one, other = (executor, None) if first == "workers" else (None, executor)
        with pytest.raises(JobCancelled):
            quantized(tiny_llama, tmp_path / "out", executor=one, on_progress=stop)
        done = len(executor.tasks)
        again = quantized(tiny_llama, tmp_path / "out", executor=other)
        assert again.read_bytes() == whole.read_bytes()
        if first == "one process":
            assert executor.tasks[done:].count("quantize_block") == 2


def test_the_folder_holds_one_block_of_inputs_where_one_process_does_all(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = list[int]()
    plain = ShardWorker.quantize_block

    def counted(worker: ShardWorker, *, index: int, name: str) -> Any:
        kept.append(len({file.name[:12] for file in tmp_path.rglob("inputs-*")}))
        return plain(worker, index=index, name=name)

    monkeypatch.setattr(ShardWorker, "quantize_block", counted)
    quantized(tiny_llama, tmp_path / "out")
    # Its own, and what the next one will get.
    assert kept == [2, 1]


BAD = {
    "optimum": (
        partial(gptq, propagate=False, engine="optimum"),
        "blocks see others: leave out propagate",
    ),
    "a word": (partial(gptq, propagate="no"), "propagate must be"),
}


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
def test_bad_input(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
