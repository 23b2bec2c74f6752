"""A model of 70 billion weights on workers: sparse files with real headers, tasks alike, no tensor in any of them."""

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.checkpoints.folder import read_weights
from qtoolkit.checkpoints.safetensors import read_tensors
from qtoolkit.errors import JobCancelled
from qtoolkit.jobs import quantizing, shared_parts
from qtoolkit.jobs.shared_parts import make_part
from qtoolkit.records import Machine, ProgressEvent
from tests.planning.test_headers import sparse_checkpoint

pytestmark = pytest.mark.slow

BLOCKS = 80


class SomeBlocks(Executor):
    """Makes these blocks alone, and leaves the others for ever; keeps what goes through it."""

    def __init__(self, *made: int) -> None:
        self.made = made
        self.tasks, self.answers = dict[int, bytes](), list[bytes]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if fn is not make_part:
            future.set_result(fn(*args))
            return future
        number = args[1]
        self.tasks[number] = pickle.dumps((fn, args))
        if number in self.made:
            function, arguments = pickle.loads(self.tasks[number])  # noqa: S301
            future.set_result(function(*arguments))
            self.answers.append(pickle.dumps(future.result()))
        return future


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Llama 70B on a machine whose disk holds the result, and whose memory does not."""
    (tmp_path / "70b").mkdir()
    sparse_checkpoint(tmp_path / "70b", 15)
    own = quantizing.this_machine

    def machine(*given: Any) -> Machine:
        return replace(own(*given), memory=8 * 10**9, output_disk=10**12, largest_file=None)

    monkeypatch.setattr(quantizing, "this_machine", machine)
    monkeypatch.setattr(shared_parts, "free_disk", lambda folder: 10**12)
    return tmp_path / "70b"


def shared(model: Path, config: Any, *made: int) -> SomeBlocks:
    """What went through the executor until these blocks were made."""

    def stop(event: ProgressEvent) -> None:
        if event.unit == "blocks" and len(executor.tasks) >= BLOCKS and event.done == len(made):
            raise JobCancelled("stop")

    executor = SomeBlocks(*made)
    options: dict[str, Any] = {"output": model.parent / "out", "executor": executor, "on_progress": stop}
    with pytest.raises(JobCancelled):
        qt.quantize(model, config, device="cpu", token="hf_secret", **options)  # noqa: S106
    return executor


def read_by(model: Path, block: int) -> int:
    """The bytes that a block's task reads."""
    tensors = read_weights(model)
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(f"model.layers.{block}."))


@pytest.mark.parametrize(
    ("config", "others"),
    [("nf4", 0), pytest.param(qt.GGUF("Q8_0"), 3, marks=pytest.mark.long)],
    ids=["nf4", "gguf"],
)
def test_tasks_are_alike_and_carry_no_tensor(model: Path, config: Any, others: int) -> None:
    tasks = shared(model, config).tasks
    assert len(tasks) == BLOCKS + others
    assert {read_by(model, block) for block in range(0, BLOCKS, 13)} == {1_711_308_800}
    assert max(map(len, tasks.values())) < 4000
    # Nor the names of 560 layers, nor a token.
    others_in = (b"_rebuild_tensor", b"model.layers.", b"hf_secret")
    assert not any(text in task for task in tasks.values() for text in others_in)


@pytest.mark.long
def test_a_block_that_is_made_is_a_file_of_its_own_and_a_short_answer(model: Path) -> None:
    executor = shared(model, qt.AbsMax(bits=8), 79)
    (file,) = (model.parent / "out.partial/journal").glob("block-*.safetensors")
    tensors = read_tensors(file)
    assert tensors and all(key.startswith("model.layers.79.") for key in tensors)
    assert len(executor.answers[0]) < 2000
