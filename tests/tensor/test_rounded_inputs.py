"""Inputs that are rounded to 8 bits token by token, against plain loops in float64."""

import pytest
import torch

from qtoolkit.tensor.rounded_inputs import inputs_rounding

LARGEST = {"float": 448.0, "int": 127.0}
NUMBERS = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
LEVELS = {"float": NUMBERS[NUMBERS.isfinite()], "int": torch.arange(-127.0, 128.0, dtype=torch.float64)}


def inputs(tokens: int, width: int) -> torch.Tensor:
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(7))
    x[1] = 0
    x[2] *= 1e3
    return x


@pytest.mark.parametrize("kind", ["float", "int"])
@pytest.mark.parametrize(("width", "group_size"), [(24, -1), (24, 8), (20, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_becomes_the_nearest_level(kind: str, width: int, group_size: int, dtype: torch.dtype) -> None:
    x = inputs(4, width).to(dtype)
    rounded = inputs_rounding(kind, group_size)(x)
    assert (rounded.dtype, rounded.shape) == (dtype, x.shape)
    size = width if group_size == -1 else group_size
    for token in range(4):
        for start in range(0, width, size):
            part = x[token, start : start + size].double()
            scale = part.abs().max() / LARGEST[kind]
            if scale == 0:
                assert not rounded[token, start : start + size].any()
                continue
            distances = (part[:, None] - LEVELS[kind] * scale).abs()
            error = (rounded[token, start : start + size].double() - part).abs()
            slack = part.abs() * torch.finfo(dtype).eps + 1e-6 * scale * LARGEST[kind]
            assert (error <= distances.amin(1) + slack).all()


@pytest.mark.parametrize("kind", ["float", "int"])
def test_tokens_do_not_depend_on_one_another(kind: str) -> None:
    x = inputs(4, 16)
    rounding = inputs_rounding(kind)
    assert torch.equal(rounding(x), torch.cat([rounding(token[None]) for token in x]))


@pytest.mark.parametrize("kind", ["float", "int"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_token(kind: str, bad: float) -> None:
    x = inputs(4, 16)
    x[2, 3] = bad
    rounded = inputs_rounding(kind)(x)
    assert not rounded[2, 3].isfinite()
    assert rounded[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("kind", ["float", "int"])
def test_the_smallest_numbers_do_not_become_nan(kind: str) -> None:
    assert inputs_rounding(kind)(torch.full((1, 8), 1e-45)).isfinite().all()
    assert inputs_rounding(kind)(torch.zeros(0, 8)).shape == (0, 8)
