"""A quantization in shards: its result depends on the shards alone, whoever does them and whatever is lost."""

import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import JobCancelled, QToolkitError
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.shard_workers import do_task
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.records import ProgressEvent
from qtoolkit.requests import ModelSource
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.journal import Journal
from qtoolkit.stream.run import quantize_blocks
from qtoolkit.stream.sharded_run import ThisProcess, quantize_in_shards
from tests.methods.gptq.jobs import gptq
from tests.sample_models import few_tokens, random_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny_mixtral(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-mixtral"
    random_model("mixtral", vocab_size=few_tokens(smollm2, folder)).save_pretrained(folder)
    return folder


def quantized(model: Path, output: Path, *, executor: Any = None, **changes: Any) -> bytes:
    """The weights that a job in three shards writes."""
    options = {name: changes.pop(name) for name in ("on_progress", "retries", "token") if name in changes}
    qt.quantize(model, gptq(**{"shards": 3} | changes), output=output, device="cpu", executor=executor, **options)
    return (output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that one process writes."""
    return quantized(tiny_llama, tmp_path_factory.mktemp("whole") / "out")


@pytest.mark.parametrize("kind", ["tiny_llama", "tiny_mixtral"])
def test_one_shard_gives_what_is_made_without_shards(kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint = open_source(request.getfixturevalue(kind), ModelSource())
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    names = [name.removesuffix(".weight") for name in streamed.name_of.values() if name.endswith("proj.weight")]
    names += [name.removesuffix(".weight") for name in streamed.name_of.values() if ".experts." in name]
    layers = streamed.names_by_block(sorted(set(names)))
    tokens = torch.randint(0, 200, (4, 32), generator=torch.Generator().manual_seed(0))
    method = GPTQBlocks(gptq(refine=1), "cpu", torch.float32)
    weights = {name: torch.rand(4, 32) for name in names if "self_attn" in name}
    given = (streamed, layers, tokens, method)
    plain = quantize_blocks(*given, Journal(None, {}), lambda event: None, weights)
    workers = ThisProcess(checkpoint)
    shards = quantize_in_shards(*given, Journal(None, {}), lambda event: None, weights, num_shards=1, workers=workers)
    assert len(plain) == len(shards) == 2
    for one, other in zip(plain, shards, strict=True):
        assert one.facts == other.facts
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[key][...], other.tensors[key][...]) for key in one.tensors)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("tiny_llama", {"token_weights": True, "true_sequential": False}), ("tiny_mixtral", {})],
    ids=["tokens weighed", "experts"],
)
def test_workers_give_what_one_process_gives(
    kind: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    here = quantized(model, tmp_path / "here", **changes)
    with ThreadPoolExecutor(2) as executor:
        assert quantized(model, tmp_path / "there", executor=executor, **changes) == here
    assert not list(tmp_path.glob("*.partial"))


def test_other_shards_give_another_result(tiny_llama: Path, tmp_path: Path, whole: bytes) -> None:
    assert quantized(tiny_llama, tmp_path / "out", shards=2) != whole


DIED = OSError("the worker died\nand left a long story")


class LosingExecutor(ThreadPoolExecutor):
    """Loses the second shard's tasks at first, as an executor does whose workers die; keeps all that it is given."""

    def __init__(self, losses: int, error: Exception = DIED) -> None:
        super().__init__(1)
        self.error = error
        self.losses, self.lost, self.given = losses, 0, list[tuple[Any, ...]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append(args)
        task = args[1] if fn is do_task else None
        if task is not None and task.func.__name__ != "look" and args[-1] < self.losses:
            self.lost += 1
            future: Future[Any] = Future()
            future.set_exception(self.error)
            return future
        return super().submit(fn, *args, **kwargs)


def test_lost_tasks_are_begun_again(tiny_llama: Path, tmp_path: Path, whole: bytes) -> None:
    with LosingExecutor(2) as executor:
        options = {"executor": executor, "token": "hf_secret"}
        assert quantized(tiny_llama, tmp_path / "out", **options) == whole
    assert executor.lost > 20
    tasks = [pickle.dumps(given) for given in executor.given]
    assert all(b"hf_secret" not in task for task in tasks)
    # A mixture of experts has tens of thousands of layers, whose names each task would carry.
    assert all(b"model.layers." not in task for task in tasks)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DIED, r"\(OSError: the worker died\): blocks that are done are kept"),
        (
            BrokenProcessPool("it died"),
            r"\(BrokenProcessPool: it died; workers are lost mostly where memory runs out\)",
        ),
    ],
    ids=["unknown", "pool"],
)
def test_workers_that_are_lost_too_often_end_the_job_in_one_line(
    tiny_llama: Path, tmp_path: Path, error: Exception, said: str
) -> None:
    said = f"the workers did not do their work {said}"
    with LosingExecutor(2, error) as executor, pytest.raises(QToolkitError, match=said) as caught:
        quantized(tiny_llama, tmp_path / "out", executor=executor, retries=1)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def stop_in_the_second_block(event: ProgressEvent) -> None:
    if event.phase == "quantize" and event.done == 9:
        raise JobCancelled("stop")


@pytest.mark.parametrize("first", ["workers", "one process"])
def test_a_job_goes_on_elsewhere(tiny_llama: Path, tmp_path: Path, whole: bytes, first: str) -> None:
    output = tmp_path / "out"
    with ThreadPoolExecutor(2) as executor:
        one, other = (executor, None) if first == "workers" else (None, executor)
        with pytest.raises(JobCancelled):
            quantized(tiny_llama, output, executor=one, on_progress=stop_in_the_second_block)
        assert [path.name for path in tmp_path.glob("out.partial/*") if path.is_dir()] == ["journal"]
        seen = list[str]()
        again = quantized(tiny_llama, output, executor=other, on_progress=lambda event: seen.append(event.detail))
    assert again == whole
    assert any("done before" in detail for detail in seen)
