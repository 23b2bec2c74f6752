"""The peak of CUDA memory, without touching the counters that a user may be reading."""

import time

import pytest
import torch

from qtoolkit.measure.peak import allocated_vram, measure_peak

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
MB = 1_000_000


def allocate(size: int) -> None:
    block = torch.ones(size, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    time.sleep(0.6)  # two samples at least
    del block


def test_a_new_maximum_is_the_allocators() -> None:
    torch.cuda.init()
    size = torch.cuda.max_memory_allocated() + 300 * MB
    before = torch.cuda.memory_allocated()
    with measure_peak() as meter:
        allocate(size)
    assert meter.report.peak_vram == pytest.approx(before + size, abs=MB)
    assert meter.report.peak_vram_source == "high-water mark of torch's allocator"
    assert meter.report.vram_after == torch.cuda.memory_allocated()
    assert meter.report.vram_reserved == torch.cuda.memory_reserved()


def test_a_maximum_below_an_earlier_one_is_sampled_and_the_counter_stays() -> None:
    before = torch.cuda.memory_allocated()
    allocate(torch.cuda.max_memory_allocated() + 400 * MB)
    mark = torch.cuda.max_memory_allocated()
    with measure_peak() as meter:
        allocate(300 * MB)
    assert meter.report.peak_vram == pytest.approx(before + 300 * MB, abs=MB)
    assert meter.report.peak_vram_source == "sampled every 250 ms"
    assert torch.cuda.max_memory_allocated() == mark


def test_what_is_allocated_now() -> None:
    torch.cuda.init()
    before = allocated_vram()
    block = torch.ones(100 * MB, dtype=torch.uint8, device="cuda")
    assert allocated_vram() - before == pytest.approx(100 * MB, abs=MB)
    del block
