"""Whether a job fits: each thing that may be short, the phase where it is, by how much, and what would fit."""

from dataclasses import replace
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import ConfigError, DiskFullError, InsufficientMemoryError
from qtoolkit.planning.fit import check_fits, judge
from qtoolkit.planning.machines import PROFILES
from qtoolkit.records import Machine, Plan
from tests.sample_models import config_of

PLENTY = Machine("this machine", 10**13, cache_disk=10**13, output_disk=10**13)


@pytest.fixture(scope="module")
def plan(tiny_llama: Path) -> Plan:
    return qt.plan(tiny_llama, "nf4", device="cpu", machine=PLENTY)


def test_enough_of_everything_fits(plan: Plan) -> None:
    assert (plan.fits, plan.verdict, plan.problems, plan.advice) == (True, "fits", (), ())
    check_fits(plan)


def test_exactly_enough_memory_is_enough(plan: Plan) -> None:
    exactly = judge(plan, replace(PLENTY, memory=plan.peak_rss), saves=True)
    assert exactly.verdict == "tight"
    short = judge(plan, replace(PLENTY, memory=plan.peak_rss - 1_000_000), saves=True)
    assert short.verdict == "does not fit"
    assert short.problems[0].startswith("memory: 1.0 MB short in the phase ")
    with pytest.raises(
        InsufficientMemoryError, match=r"nf4 of .*tiny-llama does not fit this machine \(memory: 1.0 MB"
    ):
        check_fits(short)


def test_nine_tenths_are_not_tight(plan: Plan) -> None:
    assert judge(plan, replace(PLENTY, memory=round(plan.peak_rss / 0.89)), saves=True).verdict == "fits"
    assert judge(plan, replace(PLENTY, memory=round(plan.peak_rss / 0.91)), saves=True).verdict == "tight"


def test_too_little_disk_counts_only_where_something_is_saved(plan: Plan) -> None:
    full = replace(PLENTY, output_disk=1_000_000)
    with pytest.raises(DiskFullError, match=r"disk for the result: .* short in the phase save"):
        check_fits(judge(plan, full, saves=True))
    check_fits(judge(plan, full, saves=False))


@pytest.mark.parametrize("name", PROFILES)
def test_a_small_model_fits_every_profile(name: str, tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, "nf4", machine=name)
    assert plan.fits
    assert plan.device == ("cuda:0" if PROFILES[name].vram else "cpu")


def test_a_t4_computes_in_float16(smollm2: Path) -> None:
    plan = qt.plan(smollm2, "nf4", machine="t4")
    assert plan.source.dtype == "float16" and plan.settings["compute_dtype"] == "float16"
    assert any("torch.float16 instead of torch.bfloat16" in note for note in plan.notes)
    assert qt.plan(smollm2, "nf4", machine="l4").source.dtype == "bfloat16"


def test_what_does_not_fit_is_not_told_with_what_the_program_does_not_load() -> None:
    """vLLM loads no NF4; what it multiplies in 8 bits is planned, and nobody else is told of that."""
    small = Machine("small", 7 * 10**9, (7 * 10**9,))
    plans = {
        for_: qt.plan(config_of("7b"), qt.GPTQ(bits=8), machine=small, for_=for_)
        for for_ in (None, "vllm", "gptqmodel")
    }
    changes = {for_: [advice.change for advice in plan.advice] for for_, plan in plans.items()}
    assert changes[None] == ["NF4()", "NF4() with device='cpu'"]
    assert set(changes["vllm"]) <= {"FP8()", "W8A8()", "GPTQ(bits=8) with device='cpu'"} and changes["vllm"]
    assert not any("NF4" in change or "8()" in change for change in changes["gptqmodel"])


def test_what_does_not_fit_is_told_with_what_would() -> None:
    plan = qt.plan(config_of("7b"), "int8", machine=Machine("small", 6 * 10**9, (6 * 10**9,)))
    assert plan.problems[0].startswith("memory on cuda:0: ")
    fitting = {advice.change: advice for advice in plan.advice if advice.fits}
    assert set(fitting) == {"NF4()", "NF4() with device='cpu'"}
    assert fitting["NF4()"].peak_vram < 6 * 10**9 < plan.peak_vram
    with pytest.raises(InsufficientMemoryError, match=r"these would fit: NF4\(\)"):
        check_fits(plan)


def test_a_job_that_does_not_fit_is_refused_with_what_would(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 4 bits, and not for 8, in a process that takes nothing itself."""
    monkeypatch.setattr("qtoolkit.jobs.quantizing.resident_memory", lambda: 0)
    # The results take 112 and 163 MB, and either job about 80 MB more.
    small = replace(PLENTY, memory=215_000_000)
    monkeypatch.setattr("qtoolkit.jobs.quantizing.this_machine", lambda output, speed: small)
    with pytest.raises(InsufficientMemoryError, match=r"int8 of .*memory: .* short .*these would fit: NF4\("):
        qt.quantize(smollm2, "int8", device="cpu")


def test_where_nothing_fits_the_nearest_is_told() -> None:
    plan = qt.plan(config_of("70b"), "int8", machine="t4")
    assert len(plan.advice) == 1 and not plan.advice[0].fits
    with pytest.raises(InsufficientMemoryError, match="take a smaller model"):
        check_fits(plan)


def test_a_calibrated_job_is_told_to_take_fewer_samples() -> None:
    small = Machine("small", 8 * 10**9)
    plan = qt.plan(config_of("7b"), qt.GPTQ(num_samples=512, seq_len=4096), machine=small)
    assert not plan.fits
    assert plan.advice[0].change == "GPTQ(num_samples=64, seq_len=512)" and plan.advice[0].fits


@pytest.mark.parametrize("asked", ["gpu", "", "T44"])
def test_an_unknown_machine_is_refused(asked: str, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="machine must be one of cpu-12gb, laptop-16gb"):
        qt.plan(tiny_llama, "nf4", machine=asked)


def test_a_device_that_the_machine_lacks_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="device must be one of auto, cpu on cpu-12gb, got 'cuda'"):
        qt.plan(tiny_llama, "nf4", machine="cpu-12gb", device="cuda")
