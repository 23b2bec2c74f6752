"""A target in bits or bytes is met by rules that the plan shows, never exceeded, and refused where it cannot be met."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError
from tests.methods.gptq.jobs import gptq
from tests.sample_models import config_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def mean_bits(layers: Any) -> float:
    """In the file, of layers without biases."""
    return 8 * sum(layer.disk_bytes for layer in layers) / sum(layer.num_weights for layer in layers)


@pytest.mark.parametrize(
    "config",
    [gptq(target_bits=4.5), qt.ZeroPoint(granularity="group", target_bits=6)],
    ids=["gptq", "zero-point"],
)
def test_plan_and_job_meet_the_target_with_the_same_rules(config: Any, tiny_llama: Path, tmp_path: Path) -> None:
    plan = qt.plan(tiny_llama, config, device="cpu")
    made = qt.quantize(tiny_llama, config, device="cpu", output=tmp_path / "mixed")
    assert plan.settings["rules"] == made.config.to_dict()["rules"] != {}
    assert made.config.to_dict()["target_bits"] == config.target_bits
    assert config.target_bits - 0.5 < mean_bits(made.report.layers) <= config.target_bits
    assert len({layer.bits for layer in plan.layers}) > 1
    assert any(f"target_bits={config.target_bits:g}" in note and "nats per token" in note for note in plan.notes)
    assert "measure" in [phase.name for phase in plan.phases]
    assert made.memory.footprint_after == made.memory.predicted_footprint_after
    again = qt.load(tmp_path / "mixed", device="cpu")
    tokens = torch.arange(2, 34).reshape(2, 16)
    with torch.no_grad():
        assert torch.equal(again.model(tokens).logits, made.model(tokens).logits)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_file_is_never_larger_than_the_target(share: float, tiny_llama: Path, tmp_path: Path) -> None:
    sizes = []
    for bits in (4, 8):
        uniform = qt.AbsMax(bits=bits, granularity="group")
        sizes.append(qt.plan(tiny_llama, uniform, device="cpu").disk_after)
    # Room for headers, which a plan does not count.
    target = int(sizes[0] + share * (sizes[1] - sizes[0])) + 20_000
    config = qt.AbsMax(granularity="group", target_size=target)
    made = qt.quantize(tiny_llama, config, device="cpu", output=tmp_path / "mixed")
    assert made.memory.disk_after is not None
    assert target - 30_000 < made.memory.disk_after <= target


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            qt.AbsMax(granularity="group", format="native", target_bits=4),
            r"out of reach for .*: it takes 4\.250 .* to 8\.250 bits",
        ),
        (
            qt.AbsMax(granularity="group", target_size="1 kB"),
            r"out of reach for .*: it takes 5\d\d\.\d kB to 6\d\d\.\d kB",
        ),
        (gptq(target_bits=3, full_range=False), r"out of reach for .*: it takes 4\.\d+ bits per weight to 9\.\d+ bits"),
        (
            qt.AbsMax(granularity="group", format="native", target_bits=5, rules={"*": {"bits": 8}}),
            r"the rules take 8\.250 bits per weight, more than target_bits=5: leave out their bits",
        ),
    ],
    ids=["bits", "size", "2 bits with scales of one sign", "rules"],
)
def test_what_cannot_be_met_is_refused_before_work(config: Any, message: str, tiny_llama: Path) -> None:
    for verb in (qt.plan, qt.quantize):
        with pytest.raises(ConfigError, match=message):
            verb(tiny_llama, config, device="cpu")


def test_room_for_the_most_bits_needs_no_measurement(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, qt.AbsMax(bits=4, target_bits=9), device="cpu")
    assert {layer.bits for layer in plan.layers} == {8}
    assert "measure" not in [phase.name for phase in plan.phases]


def test_rules_that_keep_the_target_are_kept(tiny_llama: Path) -> None:
    rules = {"*.down_proj": {"bits": 8}}
    plan = qt.plan(tiny_llama, qt.AbsMax(bits=4, rules=rules, target_bits=6), device="cpu")
    assert plan.settings["rules"] == rules
    assert "measure" not in [phase.name for phase in plan.phases]


def test_other_rules_go_with_a_target(tiny_llama: Path) -> None:
    """Also where bits are given by the same pattern: every kind and every layer is named."""
    names = [layer.name for layer in qt.plan(tiny_llama, "absmax", device="cpu").layers]
    rules = {pattern: {"group_size": 32} for name in names for pattern in (f"*.{name.rpartition('.')[2]}", name)}
    plan = qt.plan(tiny_llama, qt.AbsMax(granularity="group", rules=rules, target_bits=6.5), device="cpu")
    assert all(plan.settings["rules"][pattern]["group_size"] == 32 for pattern in rules)
    assert 6 < mean_bits(plan.layers) <= 6.5
    assert len({layer.bits for layer in plan.layers}) == 2


def test_a_config_alone_has_nothing_to_measure() -> None:
    with pytest.raises(ConfigError, match="a config has no weights: name a model, or give rules instead"):
        qt.plan(config_of("7b"), gptq(target_bits=4), device="cpu", machine="t4")


def test_a_job_goes_on_with_the_rules_that_it_was_begun_with(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine there is no cache; what is measured there need not be measured."""

    def stop(event: Any) -> None:
        if event.phase == "quantize" and event.detail.startswith("model.layers.1"):
            raise qt.JobCancelled

    config = gptq(target_bits=4.5)
    with pytest.raises(qt.JobCancelled):
        qt.quantize(tiny_llama, config, device="cpu", output=tmp_path / "out", on_progress=stop)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    phases = set()
    done = qt.quantize(
        tiny_llama, config, device="cpu", output=tmp_path / "out", on_progress=lambda event: phases.add(event.phase)
    )
    assert done.report.calibration is not None and done.report.calibration.resumed == 1
    assert "measure" not in phases
