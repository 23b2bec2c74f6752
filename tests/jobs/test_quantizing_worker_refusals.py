"""What `executor=` of a quantization is refused for, before any work."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, DiskFullError, InsufficientMemoryError, OutputError
from qtoolkit.jobs import shard_workers
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.shard_workers import do_task, look_around
from qtoolkit.measure.host import versions
from qtoolkit.methods import get_method
from qtoolkit.requests import ModelSource
from qtoolkit.stream.shard_worker import ShardWorker
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no executor": (gptq(shards=2), {"executor": "dask"}, r"executor must be .* got str: .* client.get_executor\(\)"),
    "memory only": (gptq(shards=2), {"output": None}, "executor= needs output="),
    "one shard": (gptq(), {}, "shards=1 leaves all samples to one worker: give shards=16"),
    "another engine": (gptq(engine="optimum", shards=2), {}, "optimum works in one process: leave out executor"),
    "a copy on the Hub": ("nf4", {"resume_repo": "me/copy"}, "resume_repo='me/copy' needs a job with calibration"),
    "retries": (gptq(shards=2), {"retries": -1}, "retries must be"),
}


@pytest.mark.parametrize(("config", "changes", "said"), BAD.values(), ids=BAD)
def test_bad_input(tiny_llama: Path, tmp_path: Path, config: Any, changes: dict[str, Any], said: str) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ConfigError, match=said):
        qt.quantize(tiny_llama, config, **{"output": tmp_path / "out", "executor": executor} | changes)
    assert not list(tmp_path.iterdir())


def test_a_loaded_model(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ConfigError, match="name its folder or Hub id"):
        qt.quantize(random_model("llama"), gptq(shards=2), output=tmp_path / "out", executor=executor)


def test_more_shards_than_samples() -> None:
    with pytest.raises(ConfigError, match="shards must be at most num_samples, 8, got 9"):
        gptq(shards=9)


def test_a_method_with_a_way_of_its_own_to_quantize_a_model() -> None:
    method: Any = get_method("absmax")
    method.refuse_workers(qt.AbsMax())

    class Whole(type(method)):
        def quantize(self, *given: Any, **named: Any) -> Any:
            raise AssertionError("not called")

    with pytest.raises(ConfigError, match="AbsMax is made in one process: leave out executor"):
        Whole().refuse_workers(qt.AbsMax())


def test_an_executor_that_is_closed(tiny_llama: Path, tmp_path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    said = "executor takes no work .*cannot schedule new futures after shutdown.*: give one that is open"
    with pytest.raises(ConfigError, match=said):
        qt.quantize(tiny_llama, gptq(shards=2), output=tmp_path / "out", executor=executor)
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_client_of_dask_that_is_closed(tiny_llama: Path, tmp_path: Path) -> None:
    import distributed

    dask: Any = distributed
    with dask.LocalCluster(n_workers=1, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster:
        client = dask.Client(cluster, set_as_default=False)
        client.close()
        with pytest.raises(ConfigError, match="the Dask client of executor is closed: give one that is open"):
            qt.quantize(tiny_llama, gptq(shards=2), output=tmp_path / "out", executor=client)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lack", ["version", "folder", "model", "weights"])
def test_a_worker_that_differs_is_named(tiny_llama: Path, tmp_path: Path, lack: str) -> None:
    known, seen = versions(), tmp_path / "seen"
    same = {name: known[name] for name in ("qtoolkit", "torch", "transformers")}
    seen.touch()

    def opens() -> Any:
        return open_source(tmp_path / "none" if lack == "model" else tiny_llama, ModelSource())

    fingerprint = open_source(tiny_llama, ModelSource()).fingerprint()
    look_around(same, seen, lambda: open_source(tiny_llama, ModelSource()), fingerprint)
    said = {
        "version": f"has torch {known['torch']}, not 1.0: install that there",
        "folder": f"does not see {tmp_path}: name an output in a folder that all workers share",
        "model": "cannot read the model: ",
        "weights": "reads other weights under the model's name",
    }[lack]
    arguments = [same | {"torch": "1.0"} if lack == "version" else same, seen, opens, fingerprint]
    if lack == "folder":
        seen.unlink()
    if lack == "weights":
        arguments[3] = "another"
    with pytest.raises(ConfigError) as caught:
        look_around(*arguments)
    assert said in str(caught.value) and str(caught.value).startswith("worker ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(28, "No space left on device"), DiskFullError, "cannot write beside the output (No space left"),
        (OSError(5, "Input/output error"), OutputError, "cannot write beside the output (Input/output"),
        (MemoryError("no room"), InsufficientMemoryError, "ran out of memory (no room)"),
    ],
    ids=["disk full", "disk fails", "memory"],
)
def test_a_task_that_fails_names_its_worker(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], said: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(shard_workers, "ShardWorker", fail)
    job: Any = type("Job", (), {"key": "any"})()
    with pytest.raises(kind) as caught:
        do_task(job, partial(ShardWorker.begin, shard=0), 0)
    assert said in str(caught.value) and str(caught.value).startswith("worker ")
    assert str(caught.value).endswith("with other workers or none")
