"""A frontier of a small model: what is measured, what is listed, and that results are kept."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, JobCancelled
from qtoolkit.jobs import recipes as recipes_job
from qtoolkit.methods import recipes
from qtoolkit.records import Frontier, ProgressEvent, Speed
from qtoolkit.units import format_bytes
from tests.jobs.compared import TEXT, compare
from tests.methods.gptq.jobs import gptq

pytestmark = pytest.mark.slow

CHANNEL = qt.AbsMax(granularity="channel")
SMALL = qt.AbsMax(bits=4, granularity="group", group_size=32)


def frontier(model: Any, output: Path, configs: Any = None, **changes: Any) -> Frontier:
    """A frontier on three windows of 32 tokens, without speed."""
    options: dict[str, Any] = {"text": TEXT, "seq_len": 32, "num_tokens": 96, "device": "cpu", "output": output}
    options["speed"] = False
    return qt.frontier(model, configs, **options | changes)


def labels(results: Sequence[Any]) -> set[str]:
    return {one.label for one in results}


def test_figures_are_those_of_a_comparison_which_are_taken_where_they_were_kept(
    tiny_llama: Path, tmp_path: Path
) -> None:
    configs = [CHANNEL, SMALL, qt.AbsMax(bits=4), None]
    compared = compare(tiny_llama, configs, tmp_path)
    found = frontier(tiny_llama, tmp_path, configs)
    assert "4 results were kept by an earlier call: resume=False measures anew" in found.notes
    assert sorted(found.results, key=str) == sorted(compared.results, key=str)
    disks = [one.disk for one in found.results]
    assert disks == sorted(disks)  # type: ignore[type-var]
    # One scale for a whole weight loses more than one for a group, and saves next to nothing.
    assert "full precision" in labels(found.frontier) and "AbsMax(bits=4)" in labels(found.results)
    assert Frontier.from_dict(found.to_dict()) == found


def test_memory_chooses_what_can_be_used_within_it(tiny_llama: Path, tmp_path: Path) -> None:
    everything = frontier(tiny_llama, tmp_path, [CHANNEL, SMALL])
    needed = {one.label: one.memory for one in everything.results}
    limit = min(size for size in needed.values() if size is not None)
    found = frontier(tiny_llama, tmp_path, [CHANNEL, SMALL], memory=limit)
    (measured,), (left,) = found.results, found.unmeasured
    assert measured.memory == limit == found.memory_limit
    # What was planned is what was measured.
    assert left.memory == needed[left.label]
    assert left.reason == f"takes more than {format_bytes(limit)} to use"


def test_sizes_choose_what_comes_near(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a small model nearly all is the embedding, which stays as it is.
    monkeypatch.setattr(recipes_job, "_NEAR", 0.001)
    everything = frontier(tiny_llama, tmp_path, [CHANNEL, SMALL, None])
    (small, *_, large) = everything.results
    assert small.disk is not None and large.disk is not None
    found = frontier(tiny_llama, tmp_path, [CHANNEL, SMALL, None], sizes=[small.disk + 1])
    assert small.label in labels(found.results) and found.sizes == (small.disk + 1,)
    (left,) = [one for one in found.unmeasured if one.label == large.label]
    assert left.reason == "differs by more than 0.1 % from every size that is wanted"
    assert left.disk == large.disk


def test_of_each_size_four_are_measured(tiny_llama: Path, tmp_path: Path) -> None:
    configs = [qt.AbsMax(bits=4, granularity="group", group_size=size) for size in (8, 16, 32, 64)]
    configs.append(qt.AbsMax(bits=4, granularity="channel"))
    wanted = qt.plan(tiny_llama, configs[-1], device="cpu").disk_after
    found = frontier(tiny_llama, tmp_path, configs, sizes=[wanted])
    assert len(found.results) == 4
    (left,) = found.unmeasured
    assert "group_size=8" in left.label and "4 others come nearer to" in left.reason


def test_a_recipe_that_cannot_be_made_and_one_that_fails_leave_the_others(tiny_llama: Path, tmp_path: Path) -> None:
    odd = qt.AbsMax(granularity="group", group_size=1022)
    short = gptq(calibration=["too short"])
    found = frontier(tiny_llama, tmp_path, [odd, short, CHANNEL])
    (left,) = found.unmeasured
    assert "group_size 1022 divides the inputs of no layer" in left.reason
    good, bad = found.results
    assert good.label in labels(found.frontier) and bad.error.startswith("ConfigError: ")
    assert bad.label not in labels(found.frontier)


def test_what_does_not_fit_this_machine_is_listed(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(recipes_job.this_machine(tmp_path, Speed()), memory=1000)
    monkeypatch.setattr(recipes_job, "this_machine", lambda *given: small)
    with pytest.raises(
        ConfigError, match=r"none of 1 recipes can be made here; AbsMax.*does not fit this machine: mem"
    ):
        frontier(tiny_llama, tmp_path, [CHANNEL])


@pytest.mark.parametrize("error", [JobCancelled, KeyboardInterrupt], ids=["cancelled", "interrupted"])
def test_a_stopped_call_goes_on_with_what_is_done(tiny_llama: Path, tmp_path: Path, error: type[BaseException]) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.phase == "compare":
            raise error("stop")

    with pytest.raises(error):
        frontier(tiny_llama, tmp_path, [CHANNEL, SMALL], on_progress=stop)
    assert len(list(tmp_path.iterdir())) == 1
    events: list[ProgressEvent] = []
    found = frontier(tiny_llama, tmp_path, [CHANNEL, SMALL], on_progress=events.append)
    assert [event.done for event in events if event.phase == "compare"] == [2]
    assert len(found.results) == 2


def test_an_executor_measures_the_same(tiny_llama: Path, tmp_path: Path) -> None:
    here = frontier(tiny_llama, tmp_path / "here", [CHANNEL, SMALL])
    with ThreadPoolExecutor(2) as executor:
        there = frontier(tiny_llama, tmp_path / "there", [CHANNEL, SMALL], executor=executor)
    assert [(one.label, one.kl_divergence, one.disk) for one in there.results] == [
        (one.label, one.kl_divergence, one.disk) for one in here.results
    ]
    assert there.frontier[0].label == here.frontier[0].label


def test_recipes_are_those_that_methods_name() -> None:
    found = recipes()
    assert len(found) == len(set(map(str, found)))
    of_gptq = {(one.bits, one.group_size) for one in found if isinstance(one, qt.GPTQ)}
    assert {(bits, size) for bits in (2, 3, 4) for size in (32, 64, 128)} <= of_gptq
    assert {"nf4", "int8", "absmax", "zero_point"} <= {one.method for one in found}
    # What calibrates takes longest.
    assert [one.method for one in found][-len(of_gptq) :] == ["gptq"] * len(of_gptq)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({"configs": None}, r'memory or sizes must say what is measured: memory="4 GB", or sizes='),
    "both": ({"memory": "1 GB", "sizes": ["1 MB"]}, "memory and sizes are two ways .*: give one"),
    "no size": ({"sizes": [-5]}, "'?-5'? is no size: write it as 8 GB"),
    "a size of nothing": ({"sizes": ["0 MB"]}, "'0 MB' is no size"),
    "a text": ({"sizes": "90 MB"}, "sizes must be a list"),
    "memory of nothing": ({"memory": 0}, "0 is no size"),
    "nothing that fits": ({"memory": "1 kB"}, r"holds none of 1 recipes: the smallest, AbsMax\(.*\), takes .* to use"),
    "nothing near": ({"sizes": ["1 kB"]}, "are near none of 1 recipes: their files have from .* give sizes between"),
    "no recipes": ({"configs": []}, "configs must be a list"),
    "no text": ({"text": None}, "text must be"),
    "an executor of nothing": ({"executor": 3}, "must be a concurrent.futures.Executor"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_any_work(
    tiny_llama: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    events: list[ProgressEvent] = []
    options = {"configs": [CHANNEL], "on_progress": events.append} | changes
    with pytest.raises(ConfigError, match=said) as caught:
        frontier(tiny_llama, tmp_path / "kept", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert not events and not (tmp_path / "kept").exists()
