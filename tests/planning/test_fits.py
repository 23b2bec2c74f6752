"""A job that cannot end well here is refused before any weight is read."""

from dataclasses import replace
from pathlib import Path

import pytest

import qtoolkit as qt
from qtoolkit.errors import DiskFullError, InsufficientMemoryError
from qtoolkit.planning import check_fits
from qtoolkit.records import Plan

PLENTY = 10**12


@pytest.fixture(scope="module")
def plan(tiny_llama: Path) -> Plan:
    return qt.plan(tiny_llama, "nf4", device="cpu")


def test_enough_of_everything_is_fine(plan: Plan) -> None:
    check_fits(plan, rss=0, memory=PLENTY, vram=None, disk=PLENTY)


def test_exactly_enough_memory_is_enough(plan: Plan) -> None:
    check_fits(plan, rss=1000, memory=plan.peak_rss - 1000, vram=None, disk=None)
    with pytest.raises(
        InsufficientMemoryError, match=r"nf4 of .*tiny-llama needs .* of memory, .* is available: free some"
    ):
        check_fits(plan, rss=1000, memory=plan.peak_rss - 1001, vram=None, disk=None)


def test_too_little_cuda_memory(plan: Plan) -> None:
    with pytest.raises(InsufficientMemoryError, match=r"on cuda:0, 1.0 MB is free: .* or device='cpu'"):
        check_fits(replace(plan, device="cuda:0"), rss=0, memory=PLENTY, vram=1_000_000, disk=None)


def test_too_little_disk(plan: Plan) -> None:
    with pytest.raises(DiskFullError, match=r"on the disk, 1.0 MB is free: name an output elsewhere"):
        check_fits(plan, rss=0, memory=PLENTY, vram=None, disk=1_000_000)
