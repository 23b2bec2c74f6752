"""Scales are the best of their candidates by the weighted error, and such as the file can hold."""

import math
from functools import partial
from typing import Any

import pytest
import torch

import qtoolkit.tensor.qparams as qparams_module
from qtoolkit.tensor.qparams import raised_groups, search_qparams

pytestmark = pytest.mark.once


def error_of(w: torch.Tensor, h: torch.Tensor, scale: float, zero: float, bits: int) -> float:
    """Sum of h (w - q)^2 of one group, slowly."""
    total = 0.0
    for weight, importance in zip(w.tolist(), h.tolist(), strict=True):
        code = min(max(round(weight / scale + zero), 0), 2**bits - 1)
        total += importance * (weight - (code - zero) * scale) ** 2
    return total


@pytest.mark.parametrize("sym", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_at_least_as_good_as_every_candidate(bits: int, sym: bool) -> None:
    torch.manual_seed(bits)
    w, h = torch.randn(32, 5), torch.rand(32)
    qparams = search_qparams(w, h, bits=bits, group_size=32, sym=sym, full_range=False, steps=15, smallest=0.4)
    for column in range(5):
        group = w[:, column]
        found = error_of(group, h, qparams.scale[0, column].item(), qparams.zero_point[0, column].item(), bits)
        for step in range(15):
            share = 1 - 0.6 * step / 14
            if sym:
                zero = 2 ** (bits - 1)
                scale = group.abs().max().item() / (zero - 0.5) * share
            else:
                low, high = min(group.min().item(), 0), max(group.max().item(), 0)
                scale = (high - low) / (2**bits - 1) * share
                scale = torch.tensor(scale).half().item()
                zero = min(max(round(-low * share / scale), 1), 2**bits - 1)
            scale = torch.tensor(scale).half().item()
            assert found <= error_of(group, h, scale, zero, bits) * 1.001


def test_weights_of_importance_decide() -> None:
    w = torch.tensor([[1.0], [0.37], [0.61], [7.5]])
    heeded = search_qparams(
        w, torch.tensor([1.0, 1, 1, 0]), bits=4, group_size=4, sym=True, full_range=False, steps=200, smallest=0.05
    )
    ignored = search_qparams(
        w, torch.ones(4), bits=4, group_size=4, sym=True, full_range=False, steps=200, smallest=0.05
    )
    assert heeded.scale.item() < 0.5 * ignored.scale.item()


@pytest.mark.parametrize("sym", [True, False], ids=["symmetric", "asymmetric"])
def test_scales_fit_float16_and_zero_points_the_first_format(sym: bool) -> None:
    w = torch.randn(64, 30) * torch.logspace(-9, 4, 30)
    w[:, 3] = w[:, 3].abs()
    w[:, 4] = -w[:, 4].abs()
    w[:, 5] = 0
    qparams = search_qparams(
        w, torch.rand(64), bits=4, group_size=64, sym=sym, full_range=False, steps=10, smallest=0.5
    )
    assert torch.equal(qparams.scale, qparams.scale.half().float())
    assert qparams.scale.isfinite().all() and (qparams.scale > 0).all()
    assert qparams.zero_point.min() >= 1 and qparams.zero_point.max() <= 15
    assert torch.equal(qparams.zero_point, qparams.zero_point.round())
    assert not sym or (qparams.zero_point == 8).all()


def test_groups_and_wide_layers_do_not_depend_on_each_other() -> None:
    torch.manual_seed(0)
    w, h = torch.randn(96, 9000), torch.rand(96)
    options = {"bits": 4, "group_size": 32, "sym": True, "full_range": False, "steps": 8, "smallest": 0.5}
    whole = search_qparams(w, h, **options)
    part = search_qparams(w[32:64, 8000:].contiguous(), h[32:64], **options)
    assert torch.equal(whole.scale[1:2, 8000:], part.scale)


@pytest.mark.parametrize("full_range", [True, False], ids=["both signs", "one sign"])
def test_many_groups_at_one_time_as_on_a_gpu_get_the_same(full_range: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    w, h = torch.randn(7 * 16, 10), torch.rand(7 * 16)
    h[32:48] = 0
    options = {"bits": 3, "group_size": 16, "sym": True, "full_range": full_range, "steps": 9, "smallest": 0.5}
    one = search_qparams(w, h, **options)
    # Three groups at a time, and one that is left.
    monkeypatch.setattr(qparams_module, "_CHUNK_GPU", 3 * 16 * 10)
    monkeypatch.setattr(qparams_module, "_parts", partial(as_on_a_gpu, qparams_module._parts))
    many = search_qparams(w, h, **options)
    assert torch.equal(one.scale, many.scale)
    assert torch.equal(one.zero_point, many.zero_point)


def as_on_a_gpu(parts: Any, *sizes: int, on_gpu: bool) -> list[Any]:
    assert not on_gpu
    found = list(parts(*sizes, on_gpu=True))
    assert len(found) == 3
    return found


def test_a_group_without_importance_is_fitted_to_all_its_weights() -> None:
    w = torch.randn(32, 4)
    options = {"bits": 4, "group_size": 32, "sym": True, "full_range": False, "steps": 8, "smallest": 0.5}
    assert torch.equal(
        search_qparams(w, torch.zeros(32), **options).scale, search_qparams(w, torch.ones(32), **options).scale
    )


def both_signs(group: torch.Tensor, bits: int, steps: int, smallest: float) -> list[float]:
    """Every candidate for a group's scale in float64, positive ones first."""
    middle = 2 ** (bits - 1)
    full = group.abs().max().item() / (middle - 0.5)
    scales = [full * (1 - (1 - smallest) * step / (steps - 1)) for step in range(steps)]
    # 8 significant bits.
    rounded = [math.ldexp(round(math.frexp(scale)[0] * 256) / 256, math.frexp(scale)[1]) for scale in scales]
    return rounded + [-scale for scale in rounded]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_full_range_takes_the_best_of_both_signs(bits: int) -> None:
    torch.manual_seed(bits)
    w, h = torch.randn(32, 12), torch.rand(32)
    options = {"bits": bits, "group_size": 32, "sym": True, "steps": 15, "smallest": 0.4}
    qparams = search_qparams(w, h, full_range=True, **options)
    middle = 2 ** (bits - 1)
    for column in range(12):
        group = w[:, column]
        errors = {scale: error_of(group, h, scale, middle, bits) for scale in both_signs(group, bits, 15, 0.4)}
        found = qparams.scale[0, column].item()
        assert found in errors
        assert errors[found] <= min(errors.values()) * 1.00001
    assert (qparams.zero_point == middle).all()
    assert 0 < (qparams.scale < 0).sum() < 12


def test_the_largest_weight_decides_the_sign_and_a_tie_stays_positive() -> None:
    options = {"bits": 4, "group_size": 4, "sym": True, "full_range": True, "steps": 20, "smallest": 0.4}
    w = torch.tensor([[8.0, -8.0, 1.0, 0.0], [1.0, 1.0, -1.0, 0.0], [-3.0, -3.0, 1.0, 0.0], [2.0, 2.0, -1.0, 0.0]])
    scale = search_qparams(w, torch.ones(4), **options).scale[0]
    assert scale[0] < 0 < scale[1]
    assert scale[2] > 0 and scale[3] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_full_range_scales_fit_both_types(dtype: torch.dtype) -> None:
    w = (torch.randn(64, 40) * torch.logspace(-12, 6, 40)).clamp(-524000, 524000)
    w[:, 5] = 0
    scale = search_qparams(
        w, torch.rand(64), bits=4, group_size=64, sym=True, full_range=True, steps=10, smallest=0.5
    ).scale
    assert torch.equal(scale, scale.to(dtype).float())
    assert scale.isfinite().all() and (scale != 0).all()


def test_asymmetric_scales_are_the_same_with_full_range() -> None:
    w, h = torch.randn(64, 8), torch.rand(64)
    options = {"bits": 3, "group_size": 32, "sym": False, "steps": 10, "smallest": 0.5}
    on = search_qparams(w, h, full_range=True, **options)
    off = search_qparams(w, h, full_range=False, **options)
    assert torch.equal(on.scale, off.scale) and torch.equal(on.zero_point, off.zero_point)


LARGEST = torch.finfo(torch.float16).max


@pytest.mark.parametrize(("sym", "full_range"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_code_stands_for_more_than_the_type_of_the_weights_holds(bits: int, sym: bool, full_range: bool) -> None:
    torch.manual_seed(bits)
    w = torch.randn(32, 200).mul(40000).clamp(-LARGEST, LARGEST).half().float()
    w[0, 0], w[1, 0], w[0, 1], w[0, 2] = LARGEST, -LARGEST, LARGEST, -LARGEST
    # The whole range is the only candidate.
    options = {"bits": bits, "group_size": 32, "sym": sym, "full_range": full_range, "steps": 1, "smallest": 1.0}
    free = search_qparams(w, torch.rand(32), **options)
    held = search_qparams(w, torch.rand(32), **options, largest=LARGEST)
    reached = [torch.maximum(one.zero_point, 2**bits - 1 - one.zero_point) * one.scale.abs() for one in (free, held)]
    assert reached[0].half().isinf().any() and not reached[1].half().isinf().any()
    digits = torch.bfloat16 if full_range else torch.float16
    assert torch.equal(held.scale, held.scale.to(digits).float())
    # Each group is still reached to a step and a half.
    codes = (w / held.scale + held.zero_point).round().clamp(0, 2**bits - 1)
    assert ((codes - held.zero_point) * held.scale - w).abs().max() <= 1.5 * held.scale.abs().max()


@pytest.mark.parametrize("sym", [True, False])
def test_weights_beyond_every_scale_of_float16_are_refused(sym: bool) -> None:
    options = {"bits": 4, "group_size": 4, "sym": sym, "full_range": False, "steps": 2, "smallest": 0.5}
    most = 65504.0 * (8 if sym else 15)
    found = search_qparams(torch.tensor([[-most], [0.0], [0.0], [0.0]]), torch.ones(4), **options)
    assert found.scale.item() == 65504
    with pytest.raises(ValueError, match=r"^weights up to .* need scales beyond those of float16, at most 65504$"):
        search_qparams(torch.tensor([[-1.01 * most], [0.0], [0.0], [0.0]]), torch.ones(4), **options)


@pytest.mark.parametrize("sym", [True, False], ids=["symmetric", "asymmetric"])
def test_groups_that_are_finer_than_the_smallest_scale_are_counted(sym: bool) -> None:
    """2**-14 is float16's smallest normal number; with 4 bits the largest weight is 8 scales, or the range 15."""
    finest = 2.0**-14 * (8 if sym else 15)
    w = torch.zeros(12, 3)  # three groups of 4 inputs, each with one weight that is not 0
    w[[1, 4, 11], 0] = torch.tensor([finest * 0.99, -finest * 0.5, finest * 1.01])
    w[[0, 5, 8], 1] = torch.tensor([1e-30, 1.0, -finest])
    assert raised_groups(w, bits=4, group_size=4, sym=sym).tolist() == [2, 1, 0]
