"""What a plan says is written to the disk: result, journal, what stands beside them, and no more than a little room."""

from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import DiskFullError
from qtoolkit.methods import MethodConfig
from qtoolkit.planning.fit import check_fits, judge
from qtoolkit.records import Machine, Plan
from tests.methods.gptq.jobs import gptq
from tests.sample_models import random_model

PLENTY = Machine("this machine", 10**13, cache_disk=10**13, output_disk=10**13)
ROOM = 2_000_000


def needed(plan: Plan) -> int:
    return sum(phase.disk for phase in plan.phases)


CONFIGS = [qt.AbsMax(), qt.ZeroPoint(bits=4, group_size=32), qt.NF4(), qt.FP4(), qt.Int8(), gptq()]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_a_job_needs_what_it_writes_and_a_little_room(config: MethodConfig, tiny_llama: Path, tmp_path: Path) -> None:
    plan = qt.plan(tiny_llama, config, device="cpu", machine=PLENTY)
    written = [0]

    def look(event: object) -> None:
        files = [file for file in tmp_path.rglob("*") if file.is_file()]
        written.append(sum(file.stat().st_size for file in files))

    qt.quantize(tiny_llama, config, output=tmp_path / "out", device="cpu", on_progress=look)
    beside = sum(file.stat().st_size for file in (tmp_path / "out").iterdir() if file.suffix != ".safetensors")
    most = max(written) + beside
    # The tokenizer's file counts twice, since saving may double it.
    tokenizer = (tiny_llama / "tokenizer.json").stat().st_size
    assert max(written) <= needed(plan) <= most + tokenizer + ROOM


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_a_small_result_fits_on_little(config: MethodConfig, tmp_path: Path) -> None:
    """165 kB of codes, and 4.2 MB free."""
    random_model("llama").save_pretrained(tmp_path)
    plan = qt.plan(tmp_path, config, device="cpu", machine=PLENTY)
    small = Machine("this machine", 10**13, cache_disk=10**13, output_disk=4_200_000)
    assert plan.disk_after < 200_000
    check_fits(judge(plan, small, saves=True))


def test_text_that_the_model_writes_is_kept_on_the_disk(tiny_llama: Path) -> None:
    sizes = {"num_samples": 100, "seq_len": 64}
    one, other = (
        qt.plan(tiny_llama, gptq(calibration=text, **sizes), device="cpu", machine=PLENTY) for text in ("self", ["a b"])
    )
    assert needed(one) - needed(other) == 8 * 100 * 64


def test_a_file_that_ulimit_does_not_allow_is_refused(tiny_llama: Path) -> None:
    plan = qt.plan(tiny_llama, "nf4", device="cpu", machine=PLENTY)
    small = Machine("this machine", 10**13, cache_disk=10**13, output_disk=10**13, largest_file=100_000)
    with pytest.raises(DiskFullError, match=r"disk for one file, by ulimit -f: .* of 100\.0 kB\): raise that limit"):
        check_fits(judge(plan, small, saves=True))
    check_fits(judge(plan, small, saves=False))
