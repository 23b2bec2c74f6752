"""A plan says what workers that share the job out need."""

from pathlib import Path
from typing import Any

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from qtoolkit.jobs import forecasting
from qtoolkit.measure.worker_rates import Rates
from qtoolkit.planning.worker_times import Group, Layout, SharedJob, job_seconds
from qtoolkit.records import Plan, WorkerPlan
from tests.sample_models import random_model

RATES = Rates(multiply=1e9, factor=1e8, read=1e9, write=1e9)


@pytest.fixture(autouse=True)
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "measure_rates", lambda: RATES)
    monkeypatch.setattr(forecasting, "num_cores", lambda: 2)


def shared(model: Any, config: Any, workers: int = 3, **options: Any) -> WorkerPlan:
    plan = qt.plan(model, config, workers=workers, device="cpu", **options)
    assert plan.sharing is not None
    assert Plan.from_dict(plan.to_dict()) == plan
    return plan.sharing


def test_shards_are_timed_as_they_are_done(tiny_llama: Path) -> None:
    config = qt.GPTQ(shards=4, num_samples=8, seq_len=64, group_size=32)
    found = shared(tiny_llama, config)
    heads = random_model("llama").config
    width, inner = heads.hidden_size, heads.intermediate_size
    kv = width * heads.num_key_value_heads // heads.num_attention_heads
    # Which of its layers share their inputs.
    shapes = ((width, width + 2 * kv), (width, width), (width, 2 * inner), (inner, width))
    layout = Layout("", 2, width, tuple((Group(1, *shape),) for shape in shapes))
    job = SharedJob(tokens=8 * 64, shards=4)
    assert found.counts == (1, 2, 3)
    assert found.seconds == tuple(job_seconds(layout, RATES, job, count, network=1.2e9) for count in (1, 2, 3))
    # No shard is left for a fifth worker.
    assert found.enough == 4
    text = str(qt.plan(tiny_llama, config, workers=3, device="cpu"))
    assert "on one machine of 2 cores, no more than 2 of one thread" in text
    assert "from 4 workers on" in text


def test_memory_follows_the_samples_of_a_shard(tiny_llama: Path) -> None:
    few, many = (
        {term.name: term.size for term in shared(tiny_llama, qt.GPTQ(shards=shards, num_samples=32, seq_len=64)).memory}
        for shards in (8, 2)
    )
    name = "hidden states of the samples"
    assert many[name] == 4 * few[name]
    # They get its tokens.
    assert "calibration text and its tokens" not in many
    assert many["a block's weights"] == few["a block's weights"]


def test_experts_see_a_part_of_the_tokens(tmp_path: Path) -> None:
    model = random_model("mixtral")
    found = shared(model, qt.GPTQ(shards=4, num_samples=8, seq_len=64, group_size=32))
    all_of_them = shared(model, qt.GPTQ(shards=4, num_samples=8, seq_len=64, group_size=32, qep_alpha=0.0))
    assert 0 < all_of_them.seconds[0] < found.seconds[0]


def test_blocks_without_calibration_are_files(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, "absmax", workers=2, device="cpu")
    found = plan.sharing
    assert found is not None
    in_blocks = [layer for layer in (*plan.layers, *plan.skipped) if layer.name.startswith("model.layers.")]
    assert found.weight_bytes == sum(layer.bytes_before for layer in in_blocks)
    assert found.shared_bytes == sum(layer.disk_bytes for layer in in_blocks)
    assert found.shared_disk == 0
    assert found.enough == 2
    blocks = {layer.name.split(".")[2] for layer in in_blocks}
    waiting = {term.name: term.size for term in found.memory}["read and not given back yet"]
    assert len(blocks) * waiting == found.weight_bytes
    of_absmax, of_nf4 = ({term.name for term in shared(tiny_llama, name).memory} for name in ("absmax", "nf4"))
    assert of_nf4 - of_absmax == {"package bitsandbytes"}


def test_tensors_of_a_file_are_parts_too_and_codes_by_a_text_are_solved_in_shards(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, qt.GGUF("Q4_0"), workers=2, device="cpu")
    rounded = plan.sharing
    assert rounded is not None
    in_blocks = [layer for layer in (*plan.layers, *plan.skipped) if layer.name.startswith("model.layers.")]
    assert rounded.shared_bytes == sum(layer.disk_bytes for layer in in_blocks)
    text: dict[str, Any] = {"shards": 4, "num_samples": 8, "seq_len": 64}
    solved = shared(tiny_llama, qt.GGUF("Q4_0", calibration="wikitext2", **text))
    as_gptq = shared(tiny_llama, qt.GPTQ(group_size=32, refine=0, **text))
    assert solved.memory == as_gptq.memory
    assert (solved.counts, solved.seconds, solved.shared_disk) == (
        as_gptq.counts,
        as_gptq.seconds,
        as_gptq.shared_disk,
    )


def test_a_profile_has_no_times(tiny_llama: Path) -> None:
    found = shared(tiny_llama, "absmax", machine="cpu-12gb")
    assert (found.counts, found.seconds, found.enough, found.cores) == ((), (), 0, 0)


BAD = {
    "one shard": (qt.GPTQ(), 2, "shards=1 leaves all samples to one worker"),
    "one pass": (qt.GGUF(calibration=["a"], solve=False), 2, "in one process: leave out workers, or solve=False"),
    "another engine": (qt.GPTQ(engine="optimum", shards=2), 2, "optimum works in one process: leave out workers, or"),
    "none": ("absmax", 0, "workers must be"),
    "half": ("absmax", 1.5, "workers must be"),
}


@pytest.mark.parametrize(("config", "workers", "said"), BAD.values(), ids=BAD)
def test_bad_input(tiny_llama: Path, config: Any, workers: Any, said: str) -> None:
    # Nothing is read before: there is no such model.
    with pytest.raises(ConfigError, match=said):
        qt.plan(tiny_llama / "none", config, workers=workers, device="cpu")
