"""Triton's kernels are used where they were seen to agree with torch's operations, and nowhere else."""

import importlib.util

import pytest
import torch

from qtoolkit.tensor.triton_check import runs_triton

pytestmark = pytest.mark.once

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def triton_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_triton.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_it_runs_where_it_agrees_and_is_asked_once() -> None:
    asked = []

    def agrees(device: torch.device) -> bool:
        asked.append(device)
        return True

    assert runs_triton(CUDA, agrees)
    assert runs_triton(CUDA, agrees)
    assert asked == [CUDA]


def test_on_a_processor_nothing_is_asked() -> None:
    assert not runs_triton(torch.device("cpu"), lambda device: pytest.fail("asked"))


def test_without_triton_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not runs_triton(CUDA, lambda device: pytest.fail("asked"))


def test_other_results_are_told() -> None:
    with pytest.warns(
        RuntimeWarning, match=r"cuda:0 is used without Triton's kernels \(its results differ from torch's\)"
    ):
        assert not runs_triton(CUDA, lambda device: False)


def test_an_error_is_told_in_one_line() -> None:
    def fails(device: torch.device) -> bool:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    with pytest.warns(RuntimeWarning, match=r"kernels \(Failed to find C compiler\), by"):
        assert not runs_triton(CUDA, fails)


def test_memory_that_ran_out_is_no_reason_to_be_slow() -> None:
    def fails(device: torch.device) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        runs_triton(CUDA, fails)
