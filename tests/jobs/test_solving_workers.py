"""A `.gguf` file whose codes workers have solved on a text, in shards, is byte for byte that of one process."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, JobCancelled
from qtoolkit.jobs.shard_workers import do_task
from qtoolkit.records import LayerError, ProgressEvent
from tests.jobs.test_rounding_workers import files_of
from tests.jobs.test_solved_files import solved

pytestmark = pytest.mark.slow


def made(model: Path, output: Path, **options: Any) -> list[LayerError]:
    result = qt.quantize(model, solved(shards=3), output=output, device="cpu", **options)
    assert result.report.calibration is not None
    return [*result.report.calibration.layers]


class CountingExecutor(ThreadPoolExecutor):
    """Keeps the names of the tasks that it does."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.done = list[str]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is do_task:
            self.done.append(args[1].func.__name__)
        return super().submit(fn, *args, **kwargs)


def stop_in_the_second_block(event: ProgressEvent) -> None:
    if event.phase == "quantize" and event.done > 7:
        raise JobCancelled("stop")


def test_workers_go_on_where_one_process_stopped_and_make_its_file(tiny_llama: Path, tmp_path: Path) -> None:
    shards = made(tiny_llama, tmp_path / "one")
    with pytest.raises(JobCancelled):
        made(tiny_llama, tmp_path / "shared", on_progress=stop_in_the_second_block)
    seen = set[str]()
    with CountingExecutor(2) as executor:
        made(tiny_llama, tmp_path / "shared", executor=executor, on_progress=lambda event: seen.add(event.detail))
    assert "model.layers.0 (done before)" in seen
    # Of the second block alone: what each shard sums up, and what is solved.
    assert [executor.done.count(name) for name in ("sum_up", "solve")] == [4 * 3, 4]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "shared")
    assert len(shards) == 14
    # All samples count, whichever shard they are in.
    assert all(0 < layer.error < 0.1 and layer.num_inputs == 8 * 64 for layer in shards)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "without a text": ({"shards": 2}, "GGUF: shards=2 is of a calibration text, and there is none"),
    "too many": ({"shards": 9, "num_samples": 8, "calibration": ["a"]}, "shards must be at most num_samples, 8, got 9"),
    "one pass": ({"shards": 2, "calibration": ["a"], "solve": False}, "shards=2 is of codes .* leave one of them out"),
}


@pytest.mark.parametrize(("options", "said"), BAD.values(), ids=BAD)
def test_bad_input(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        qt.GGUF("Q4_0", **options)
