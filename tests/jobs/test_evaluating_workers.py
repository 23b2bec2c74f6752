"""An evaluation whose windows are shared out: its figures are those of one process, to the last digit."""

import pickle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import qtoolkit as qt
from qtoolkit.errors import CheckpointError, ConfigError, JobCancelled, QToolkitError
from qtoolkit.jobs.evaluation_workers import measure_part
from qtoolkit.jobs.shard_workers import look_around
from qtoolkit.records import ProgressEvent, QualityReport
from tests.evaluation.plain import HELD_OUT
from tests.sample_models import random_model

pytestmark = pytest.mark.slow


def evaluated(model: Any, **changes: Any) -> QualityReport:
    """A report on 5 windows, whose text overlaps."""
    text = {"text": [HELD_OUT], "seq_len": 32, "stride": 16, "num_tokens": 96}
    return qt.evaluate(model, **text | {"device": "cpu", "speed": False} | changes)


def figures(report: QualityReport) -> dict[str, Any]:
    """What does not depend on when it was measured."""
    return replace(report, seconds=0.0).to_dict()


@pytest.fixture(scope="module")
def small(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quantized model."""
    folder = tmp_path_factory.mktemp("small") / "absmax"
    qt.quantize(tiny_llama, qt.AbsMax(), output=folder, device="cpu")
    return folder


class LosingExecutor(ThreadPoolExecutor):
    """Loses the first windows so often, as an executor does whose workers die; keeps all that it is given."""

    def __init__(self, workers: int, losses: int = 0) -> None:
        super().__init__(workers)
        self.losses, self.given = losses, list[tuple[Any, ...]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn is not measure_part:
            return super().submit(fn, *args, **kwargs)
        self.given.append(args)
        if not args[0].before and args[-1] < self.losses:
            future: Future[Any] = Future()
            future.set_exception(OSError("the worker died\nand left a long story"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_the_figures_are_those_of_one_process(tiny_llama: Path, small: Path) -> None:
    here = figures(evaluated(small, base=tiny_llama, noise_floor=True))
    for workers in (2, 7):
        with LosingExecutor(workers, losses=workers == 2) as executor:
            given = {"base": tiny_llama, "noise_floor": True, "executor": executor, "token": "hf_secret"}
            assert figures(evaluated(small, **given)) == here
        parts = [args for args in executor.given if not args[-1] and not args[0].is_floor]
        # Each once, in as many parts as there are workers, of sizes that differ by one at most.
        assert [len(args[0].windows.tokens) for args in parts] == {2: [2, 3], 7: [1] * 5}[workers]
        assert all(b"hf_secret" not in pickle.dumps(args) for args in executor.given)


def test_a_base_alone_has_its_perplexity_and_speed_is_told_to_be_missing(tiny_llama: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        there = evaluated(tiny_llama, executor=executor, speed=True)
    assert there.perplexity == evaluated(tiny_llama).perplexity
    assert there.speed is None
    assert "speed was not measured, since the windows were shared out to workers" in there.notes


def test_progress_counts_windows_and_a_stop_ends_it(tiny_llama: Path) -> None:
    seen = list[tuple[int, int]]()

    def stop(event: ProgressEvent) -> None:
        if event.unit == "windows":
            seen.append((event.done, event.total))
            if event.done:
                raise JobCancelled("stop")

    with ThreadPoolExecutor(1) as executor, pytest.raises(JobCancelled):
        evaluated(tiny_llama, executor=executor, on_progress=stop)
    assert seen[-1] == (5, 5)


def test_workers_that_are_lost_too_often_end_it_in_one_line(tiny_llama: Path) -> None:
    said = r"did not do their work \(OSError: the worker died\): nothing is kept, and the same call begins anew"
    with LosingExecutor(1, losses=2) as executor, pytest.raises(QToolkitError, match=said) as caught:
        evaluated(tiny_llama, executor=executor, retries=1)
    assert "\n" not in str(caught.value)


def test_nan_is_told_with_the_window_of_the_whole_text_and_the_worker(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokens = tokenizer(HELD_OUT).input_ids[:96]
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        # Of a token that the last window alone has.
        model.model.embed_tokens.weight[next(one for one in tokens[80:] if one not in tokens[:80])] = float("nan")
    folder = tmp_path / "nan"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with ThreadPoolExecutor(5) as executor, pytest.raises(CheckpointError, match=r"worker .* NaN at token .* window 4"):
        evaluated(folder, executor=executor)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no executor": ({"executor": "dask"}, "executor must be .* got str"),
    "a loaded base": ({"base": random_model("llama")}, "name its folder or Hub id, not a LlamaForCausalLM"),
    "no base": ({"noise_floor": True}, "noise_floor=True needs a base in full precision"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_bad_input(tiny_llama: Path, changes: dict[str, Any], said: str) -> None:
    with LosingExecutor(1) as executor, pytest.raises(ConfigError, match=said):
        evaluated(tiny_llama, **{"executor": executor} | changes)
    assert not executor.given


def test_workers_are_looked_at_before_any_work_once_for_each_model(tiny_llama: Path, small: Path) -> None:
    class Looked(LosingExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            assert fn is look_around
            opened.append(args[2]())
            future: Future[Any] = Future()
            if len(opened) == 2:
                future.set_exception(ConfigError("worker a has torch 1.0, not 2.0"))
            else:
                future.set_result(super().submit(fn, *args, **kwargs).result())
            return future

    opened = list[Any]()
    with Looked(1) as executor, pytest.raises(ConfigError, match="worker a has torch"):
        evaluated(small, base=tiny_llama, executor=executor)
    assert [one.path for one in opened] == [small, tiny_llama]
    assert not executor.given
