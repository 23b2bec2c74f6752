"""The peak of resident memory: deliberate allocations are seen, whichever source it comes from."""

import gc
import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch

from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.measure.peak import PeakMeter, measure_peak

MB = 1_000_000
# What else a Python process takes or gives back meanwhile.
SLACK = 30 * MB

FRESH_PROCESS = """
import json, time
from qtoolkit.measure.peak import measure_peak

def allocate(size):
    block = bytearray(size)
    time.sleep(0.2)

allocate({before})
with measure_peak() as meter:
    allocate({inside})
print(json.dumps(meter.report.to_dict()))
"""


def allocate(size: int) -> None:
    """Hold `size` bytes for a while, and give them back. `bytearray` writes zeros, so that all of it is resident."""
    block = bytearray(size)
    time.sleep(0.2)
    del block


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """Give back what earlier tests freed and malloc kept: memory that is there already is no rise."""
    gc.collect()
    give_memory_back()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps VmHWM")
@pytest.mark.parametrize(
    ("before", "inside", "source"),
    [(0, 300 * MB, "kernel high-water mark"), (400 * MB, 300 * MB, "sampled every 10 ms")],
    ids=["a new maximum is the kernel's", "a maximum below an earlier one is sampled"],
)
def test_source_of_the_peak(before: int, inside: int, source: str) -> None:
    """In a process of its own: the kernel's mark is as old as the process."""
    code = FRESH_PROCESS.format(before=before, inside=inside)
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(ran.stdout)
    assert report["peak_rss_source"] == source
    assert report["peak_rss"] == pytest.approx(report["rss_before"] + inside, abs=SLACK)
    assert report["rss_after"] < report["rss_before"] + SLACK


def test_nothing_allocated_is_no_peak() -> None:
    allocate(100 * MB)
    with measure_peak() as meter:
        time.sleep(0.05)
    assert meter.report.rss_before <= meter.report.peak_rss < meter.report.rss_before + SLACK


def test_meters_can_be_nested() -> None:
    allocate(500 * MB)
    with measure_peak() as outer:
        with measure_peak() as first:
            allocate(100 * MB)
        with measure_peak() as second:
            allocate(300 * MB)
    rises = [meter.report.peak_rss - meter.report.rss_before for meter in (first, second)]
    assert rises == pytest.approx([100 * MB, 300 * MB], abs=SLACK)
    # Not its rise: what the first block took may stay with malloc.
    assert outer.report.rss_before == pytest.approx(first.report.rss_before, abs=SLACK)
    assert outer.report.peak_rss == pytest.approx(second.report.peak_rss, abs=SLACK)


def test_an_error_in_the_block_passes_through_and_is_measured() -> None:
    def fail(meter: PeakMeter) -> None:
        with meter:
            allocate(100 * MB)
            raise KeyError("from the block")

    meter = measure_peak()
    with pytest.raises(KeyError, match="from the block"):
        fail(meter)
    assert meter.report.peak_rss - meter.report.rss_before == pytest.approx(100 * MB, abs=SLACK)
    assert "qtoolkit-peak-meter" not in [thread.name for thread in threading.enumerate()]


def test_a_meter_can_be_used_again() -> None:
    meter = measure_peak()
    with meter:
        allocate(300 * MB)
    with meter:
        pass
    assert meter.report.peak_rss < meter.report.rss_before + SLACK


def test_the_thread_ends_with_the_block() -> None:
    before = threading.enumerate()
    with measure_peak():
        (added,) = set(threading.enumerate()) - set(before)
        assert added.daemon
    assert threading.enumerate() == before


def test_measuring_loads_no_torch() -> None:
    code = f"{FRESH_PROCESS.format(before=0, inside=0)}\nimport sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_without_cuda_nothing_is_said_of_it() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use in this process")
    with measure_peak() as meter:
        pass
    report = meter.report
    assert (report.peak_vram, report.vram_after, report.vram_reserved, report.peak_vram_source) == (
        None,
        None,
        None,
        "",
    )
    assert "CUDA" not in str(report)
