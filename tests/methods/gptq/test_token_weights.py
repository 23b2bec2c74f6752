"""Weighted tokens reach each layer's Hessian; the job resumes to the same bits, and leaves no temporary files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qtoolkit as qt
from qtoolkit.errors import ConfigError, DiskFullError
from qtoolkit.methods.gptq import layer_groups
from qtoolkit.methods.gptq.layer_groups import GPTQBlocks
from qtoolkit.models.opening import open_checkpoint
from qtoolkit.planning.fit import check_fits, judge
from qtoolkit.records import Machine, Plan, ProgressEvent
from qtoolkit.stream import run
from qtoolkit.stream.blocks import StreamedModel
from qtoolkit.stream.groups import GroupInputs
from qtoolkit.stream.journal import Journal
from qtoolkit.stream.token_weights import token_weights
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

pytestmark = pytest.mark.slow

TOKENS = torch.arange(3, 123).reshape(3, 40)
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
LAYERS = {
    "llama": [*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "mixtral": [*ATTENTION, *(f"mlp.experts.{expert}.{name}" for expert in range(4) for name in ("w1", "w2", "w3"))],
}
WEIGHED = gptq(token_weights=True)
PLENTY = Machine("this machine", 10**13, cache_disk=10**13, output_disk=10**13)


class Spy(layer_groups._Group):
    """Keeps, for each group, all batches, the Hessian of its own tokens and the products with the second stream."""

    wants_more = False

    def __init__(self, method: Any, names: Sequence[str], in_features: int) -> None:
        super().__init__(method, names, in_features)
        self.batches: list[GroupInputs] = []
        method.seen[names[0]] = self

    def add(self, batch: GroupInputs) -> None:
        self.batches.append(batch)
        super().add(batch)

    def finish(self, weights: Mapping[str, torch.Tensor]) -> Any:
        self.full = self._inputs._hessian.full().clone()
        self.products = self._inputs._correction._products
        return super().finish(weights)


def rows(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Batches [..., n] as tokens [tokens, n]."""
    return torch.cat([tensor.reshape(-1, tensor.shape[-1]).double() for tensor in tensors])


class Spying(GPTQBlocks):
    def __init__(self, config: qt.GPTQ) -> None:
        super().__init__(config, "cpu", torch.float32)
        self.seen: dict[str, Spy] = {}

    def start(self, names: Sequence[str], in_features: int) -> Spy:
        return Spy(self, names, in_features)


@pytest.mark.parametrize("at_once", [2, 3], ids=["two batches", "one batch"])
@pytest.mark.parametrize("true_sequential", [True, False])
@pytest.mark.parametrize("architecture", LAYERS)
def test_each_hessian_has_the_weights_of_its_tokens(
    architecture: str, true_sequential: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "samples_at_once", lambda *sizes: at_once)
    model = random_model(architecture, torch.float32)
    checkpoint = open_checkpoint(model, revision=None, token=None, tokenizer=None, on_progress=lambda event: None)
    streamed = StreamedModel(checkpoint, device="cpu", dtype=torch.float32)
    layers, journal = [LAYERS[architecture]] * 2, Journal(None, {})
    weights = token_weights(streamed, layers, TOKENS, journal, lambda event: None)
    method = Spying(gptq(token_weights=True, true_sequential=true_sequential))
    run.quantize_blocks(streamed, layers, TOKENS, method, journal, lambda event: None, weights)
    assert {name.split(".")[2] for name in method.seen} == {"0", "1"}
    for name, spy in method.seen.items():
        inputs = rows(batch.inputs for batch in spy.batches)
        assert (name in weights) == (".experts." not in name)
        counts = weights[name].double().flatten() if name in weights else torch.ones(len(inputs)).double()
        wanted = inputs.T @ torch.diag(counts) @ inputs
        assert (spy.full - wanted).norm() < 1e-5 * wanted.norm(), name
        if ".experts." in name:
            continue
        others = [
            batch.lacking if batch.exact is None else batch.exact - batch.inputs.reshape(batch.exact.shape)
            for batch in spy.batches
        ]
        assert spy.products is not None
        wanted = inputs.T @ torch.diag(counts) @ rows(other for other in others if other is not None)
        assert (spy.products.sum - wanted).norm() <= 1e-4 * wanted.norm(), name
        assert wanted.norm() > 0 or name.startswith("model.layers.0.")


class Stop(Exception):
    pass


def events_of(events: list[ProgressEvent], phase: str) -> list[ProgressEvent]:
    return [event for event in events if event.phase == phase]


@pytest.mark.slow
def test_a_stopped_job_goes_on_with_its_weights(tiny_llama: Path, tmp_path: Path) -> None:
    whole, events = tmp_path / "whole", list[ProgressEvent]()
    qt.quantize(tiny_llama, WEIGHED, output=whole, device="cpu", on_progress=events.append)
    weighing = events_of(events, "weigh")
    assert (weighing[-1].done, weighing[-1].total, weighing[-1].unit) == (4, 4, "blocks")
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases.index("calibrate") < phases.index("weigh") < phases.index("quantize")

    def stop(event: ProgressEvent) -> None:
        if event.phase == "quantize" and event.done == 9:
            raise Stop

    with pytest.raises(Stop):
        qt.quantize(tiny_llama, WEIGHED, output=tmp_path / "out", device="cpu", on_progress=stop)
    events.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(2, threads))
    try:
        again = qt.quantize(tiny_llama, WEIGHED, output=tmp_path / "out", device="cpu", on_progress=events.append)
    finally:
        torch.set_num_threads(threads)
    assert again.report.calibration is not None and again.report.calibration.resumed == 1
    assert not events_of(events, "weigh")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    plain = qt.quantize(tiny_llama, gptq(), output=tmp_path / "plain", device="cpu", on_progress=events.append)
    assert not events_of(events, "weigh") and plain.report.notes == again.report.notes
    assert (tmp_path / "plain" / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("moment", [1, 3, 4])
def test_a_job_stopped_while_it_weighs_leaves_nothing(moment: int, tiny_llama: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def stop(event: ProgressEvent) -> None:
        if event.phase == "weigh":
            seen.extend(file.name for file in tmp_path.rglob("*") if file.is_file())
            if event.done == moment:
                raise qt.JobCancelled

    with pytest.raises(qt.JobCancelled):
        qt.quantize(tiny_llama, WEIGHED, output=tmp_path / "new" / "out", device="cpu", on_progress=stop)
    assert set(seen) == {".qtoolkit-partial", "recipe.json"}
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def plan(tiny_llama: Path) -> Plan:
    return qt.plan(tiny_llama, WEIGHED, device="cpu", machine=PLENTY)


def test_the_plan_counts_the_temporary_files(plan: Plan) -> None:
    (weighing,) = [phase for phase in plan.phases if phase.name == "weigh"]
    # The inputs of two blocks and the output of the second; weights of three groups of each, since o_proj, whose inputs
    # are as many as those of q_proj, is taken for one of its group.
    tokens, hidden, itemsize = 8 * 64, 64, 2
    assert weighing.temporary in {3 * tokens * hidden * size for size in (itemsize, 2 * itemsize)}
    assert weighing.disk == 4 * tokens * 6
    assert "temporary files" in weighing.summary()
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_disk_without_room_for_them_is_refused(plan: Plan) -> None:
    large = replace(
        plan, phases=tuple(replace(phase, temporary=10**9 * bool(phase.temporary)) for phase in plan.phases)
    )
    with pytest.raises(DiskFullError, match=r"disk for the result: .* short in the phase weigh, needs 1\.0 GB of"):
        check_fits(judge(large, replace(PLENTY, output_disk=10**8), saves=True))
    with pytest.raises(DiskFullError, match=r"disk for one file, by ulimit -f: .* needs 1\.0 GB of"):
        check_fits(judge(large, replace(PLENTY, largest_file=10**8), saves=True))
    check_fits(judge(large, replace(PLENTY, output_disk=1_100_000_000), saves=True))


def test_without_weights_there_is_no_such_phase(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, gptq(), device="cpu", machine=PLENTY)
    assert "weigh" not in [phase.name for phase in plan.phases] and not any(phase.temporary for phase in plan.phases)


def test_experts_are_told(tmp_path: Path) -> None:
    random_model("mixtral").save_pretrained(tmp_path)
    note = "token_weights: tokens count alike for layers of experts, which get some of the tokens only"
    assert note in qt.plan(tmp_path, WEIGHED, device="cpu", machine=PLENTY).notes
    assert note not in qt.plan(tmp_path, gptq(), device="cpu", machine=PLENTY).notes


def test_optimum_weighs_no_tokens() -> None:
    with pytest.raises(ConfigError, match=r"GPTQ: optimum weighs no tokens: leave out token_weights, or engine="):
        gptq(token_weights=True, engine="optimum")
