"""A plan of a large mixture, and its advice, take the work of its few shapes, not that of its many experts."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import DeepseekV3Config, MixtralConfig, PreTrainedConfig, Qwen3MoeConfig

import qtoolkit as qt
from qtoolkit.methods.affine import AbsMaxMethod
from qtoolkit.methods.affine_config import AbsMax
from qtoolkit.methods.gptq import GPTQ, GPTQMethod
from qtoolkit.models.experts import ExpertList
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning import layers as planning_layers
from qtoolkit.records import Plan, ignore_progress
from tests.checkpoints.test_config_bombs import MEGABYTES, in_a_child

LAYERS, EXPERTS = 6, 192


def mixture() -> PreTrainedConfig:
    """As DeepSeek-V3 but for fewer layers and experts: three layers without experts come first. It fits no T4."""
    return DeepseekV3Config(num_hidden_layers=LAYERS, n_routed_experts=EXPERTS)


def count_calls(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> Counter[str]:
    calls: Counter[str] = Counter()
    real = getattr(place, name)

    def counted(*args: Any, **options: Any) -> Any:
        calls[name] += 1
        return real(*args, **options)

    monkeypatch.setattr(place, name, counted)
    return calls


def shapes(plan: Plan) -> int:
    return len({layer.shape for layer in plan.layers})


CALLS: dict[str, Callable[[], object]] = {
    "plan": lambda: qt.plan(mixture(), "gptq", machine="t4"),
    "recommend": lambda: qt.recommend(mixture(), machine="t4"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_expert_is_built(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    monkeypatch.setattr(ExpertList, "of", None)
    linears = count_calls(monkeypatch, nn.Linear, "__init__")
    call()
    # One by one they are 1,728, once for each draft.
    assert linears["__init__"] < 3 * EXPERTS


def test_advice_looks_at_the_modules_once_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = count_calls(monkeypatch, planning_layers, "modules_apart")
    plan = qt.plan(mixture(), "gptq", machine="t4")
    assert not plan.fits
    assert looked["modules_apart"] == 2  # on the GPU, and on the CPU


@pytest.mark.parametrize(
    ("method", "config", "drafts"),
    [
        (GPTQMethod, GPTQ(), 2),
        (GPTQMethod, GPTQ(rules={"*.down_proj": {"bits": 8}, "*.0.up_proj": {"bits": 3}}), 2),
        (AbsMaxMethod, AbsMax(granularity="group", rules={"*.down_proj": {"bits": 4}}), 2),
    ],
    ids=["gptq", "gptq with rules", "absmax with rules"],
)
def test_layers_that_are_alike_are_planned_once(
    monkeypatch: pytest.MonkeyPatch, method: Any, config: Any, drafts: int
) -> None:
    planned = count_calls(monkeypatch, method, "plan_layer")
    made = count_calls(monkeypatch, type(config), "__post_init__")
    plan = qt.plan(mixture(), config, machine="t4")
    # Each shape with each of at most three configs.
    assert planned["plan_layer"] <= drafts * 3 * shapes(plan)
    assert made["__post_init__"] < EXPERTS


def test_each_expert_has_a_plan_of_its_own() -> None:
    config = GPTQ(rules={"*.experts.3.*": {"bits": 8}}, exclude=("lm_head", "*.experts.0.up_proj"))
    plan = qt.plan(mixture(), config, machine="t4")
    bits = {layer.name: layer.bits for layer in plan.layers}
    prefix = "model.layers.4.mlp.experts"
    assert [bits.get(f"{prefix}.{index}.up_proj") for index in range(5)] == [None, 4, 4, 8, 4]
    assert len(bits) == len(plan.layers)
    # What stays of the excluded ones is counted for each of the three layers.
    kept = [layer.bytes_before for layer in plan.skipped if layer.name.endswith("experts.0.up_proj")]
    assert kept == [2 * 2048 * 7168] * 3


def test_a_plan_keeps_the_calibration_that_was_asked_for() -> None:
    """Two configs that differ in their texts alone are planned from the same layers, and stay two configs."""
    how: dict[str, Any] = {"revision": None, "token": None, "tokenizer": None, "on_progress": ignore_progress}
    modules = planning_layers.Modules(open_checkpoint(mixture(), **how, headers_only=True))
    method, texts = GPTQMethod(), (["one"], ["other"])
    found = [modules.planned(method, GPTQ(group_size=96, calibration=text), "cpu") for text in texts]
    assert [config.calibration for config, _, _ in found] == list(texts)
    assert {config.group_size for config, _, _ in found} == {64}
    assert found[0][1] is found[1][1]


QWEN3_30B = {"hidden_size": 2048, "num_hidden_layers": 48, "num_experts": 128, "moe_intermediate_size": 768}
LARGE: dict[str, tuple[PreTrainedConfig, str]] = {
    "DeepSeek-V3, GPTQ": (DeepseekV3Config(), "gptq"),
    "Qwen3-30B-A3B, GPTQ": (Qwen3MoeConfig(**QWEN3_30B), "gptq"),
    # Few of its weights are taken, so that all methods are asked for theirs.
    "Qwen3-30B-A3B, NF4": (Qwen3MoeConfig(**QWEN3_30B), "nf4"),
    "Mixtral-8x7B, NF4": (MixtralConfig(), "nf4"),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("config", "method"), LARGE.values(), ids=LARGE)
def test_a_large_mixture_is_planned_in_seconds(config: PreTrainedConfig, method: str) -> None:
    qt.plan(mixture(), method, machine="t4")  # what a plan imports is imported
    said, grown = in_a_child(lambda: qt.plan(config, method, machine="t4") and None)
    assert said == "no error"
    assert grown < MEGABYTES
