"""What layers become if each is quantized alone: GPTQ by many tokens, the nearest codes by few, for several widths."""

import pytest
import torch

import qtoolkit as qt
from qtoolkit.methods.gptq.alone import quantized_alone
from qtoolkit.methods.gptq.correction import ENOUGH_TOKENS
from qtoolkit.tensor.hessian import Hessian
from qtoolkit.tensor.qparams import search_qparams
from tests.methods.gptq.test_solver import literal

IN, SIZE = 64, 32
BITS = (2, 3, 4)
CONFIGS = [qt.GPTQ(bits=bits, group_size=SIZE) for bits in BITS]


def inputs_of(tokens: int) -> tuple[torch.Tensor, Hessian]:
    """Correlated inputs [tokens, in], and their sum of squares."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, IN, generator=generator) @ torch.randn(IN, IN, generator=generator)
    hessian = Hessian(IN, torch.device("cpu"))
    hessian.add(x)
    return x, hessian


def weights() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, IN, generator=generator) for rows in (48, 16)]


def lost(x: torch.Tensor, change: torch.Tensor) -> float:
    """The squared error of the outputs."""
    return float((x @ change.T).square().sum())


def test_many_tokens_give_the_codes_of_the_paper() -> None:
    x, hessian = inputs_of(ENOUGH_TOKENS * IN)
    groups = torch.arange(IN) // SIZE
    for weight, made in zip(weights(), quantized_alone(weights(), hessian, CONFIGS), strict=True):
        h = (x.T @ x).double()
        order = h.diagonal().argsort(descending=True)
        for config, value in zip(CONFIGS, made, strict=True):
            qparams = search_qparams(
                weight.T.contiguous(),
                h.diagonal().float(),
                bits=config.bits,
                group_size=SIZE,
                sym=True,
                full_range=True,
                steps=8,
                smallest={2: 0.3, 3: 0.4, 4: 0.4}[config.bits],
            )
            codes = literal(weight.double(), h, qparams, groups, order, config.damp_percent)
            expected = (codes - qparams.zero_point[groups].T) * qparams.scale[groups].T
            # A code may be another where two are nearly as close.
            assert ((value - expected).abs() < 1e-4).float().mean() > 0.99


def test_correction_loses_less_than_rounding_and_more_bits_less() -> None:
    x, hessian = inputs_of(ENOUGH_TOKENS * IN)
    _, nothing = inputs_of(0)
    pairs = zip(
        weights(),
        quantized_alone(weights(), hessian, CONFIGS),
        quantized_alone(weights(), nothing, CONFIGS),
        strict=True,
    )
    for weight, corrected, rounded in pairs:
        errors = [lost(x, value - weight) for value in corrected]
        assert errors[0] > 2 * errors[1] > 4 * errors[2]
        for error, value in zip(errors, rounded, strict=True):
            assert error < 0.8 * lost(x, value - weight)


def test_few_tokens_round_to_the_nearest_codes_of_their_grid() -> None:
    _, hessian = inputs_of(IN)
    for weight, made in zip(weights(), quantized_alone(weights(), hessian, CONFIGS), strict=True):
        for value in made:
            for start in range(0, IN, SIZE):
                group = slice(start, start + SIZE)
                for row, own in zip(weight[:, group], value[:, group], strict=True):
                    levels = own.unique()
                    nearest = levels[(row[:, None] - levels).abs().argmin(1)]
                    assert torch.allclose(own, nearest)


@pytest.mark.parametrize("tokens", [2 * IN, 4 * IN])
def test_between_them_the_share_of_the_correction_grows(tokens: int) -> None:
    """Seen on other inputs of the same kind: a little less than those of few tokens alone would lose."""
    x, _ = inputs_of(4096)
    some = Hessian(IN, torch.device("cpu"))
    some.add(x[:tokens])
    every = Hessian(IN, torch.device("cpu"))
    every.add(x)
    _, nothing = inputs_of(0)
    errors = [
        sum(lost(x, value - weight) for weight, (value,) in zip(weights(), made, strict=True))
        for made in (quantized_alone(weights(), inputs, CONFIGS[1:2]) for inputs in (nothing, some, every))
    ]
    assert errors[0] > errors[1] > errors[2]
