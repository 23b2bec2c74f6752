"""KL divergence and likelihoods of logits against float64."""

import math

import pytest
import torch

from qtoolkit.tensor.divergence import compare_predictions, negative_log_likelihood

pytestmark = pytest.mark.once


@pytest.mark.parametrize("vocabulary", [2, 1000, 50_000])
@pytest.mark.parametrize("spread", [1.0, 30.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("change", [0.0, 1e-3, 1.0])
def test_all_is_as_in_float64(vocabulary: int, spread: float, change: float) -> None:
    generator = torch.Generator().manual_seed(0)
    base = spread * torch.randn(37, vocabulary, generator=generator) + 20
    model = base + change * torch.randn(37, vocabulary, generator=generator)
    targets = torch.randint(vocabulary, (37,), generator=generator)
    found = compare_predictions(base.clone(), model.clone(), targets)
    log_p, log_q = base.double().log_softmax(-1), model.double().log_softmax(-1)
    reference = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(found.kl_divergence.double(), reference, atol=1e-6, rtol=1e-6)
    rows = torch.arange(37)
    torch.testing.assert_close(found.nll.double(), -log_q[rows, targets], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.base_nll.double(), -log_p[rows, targets], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(negative_log_likelihood(model, targets), found.nll)
    assert torch.equal(found.same_top, base.argmax(-1) == model.argmax(-1))
    delta = log_q[rows, targets].exp() - log_p[rows, targets].exp()
    torch.testing.assert_close(found.delta_p.double(), delta, atol=1e-6, rtol=1e-4)


def test_a_hand_made_example() -> None:
    """The base says 1/2 and 1/2, the model 3/4 and 1/4."""
    base, model = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    found = compare_predictions(base, model, torch.tensor([1]))
    assert found.kl_divergence.item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert found.delta_p.item() == pytest.approx(-0.25)


def test_logits_are_left_as_they_are() -> None:
    base, model = torch.randn(20, 30), torch.randn(20, 30)
    before = base.clone(), model.clone()
    compare_predictions(base, model, torch.zeros(20, dtype=torch.int64))
    assert torch.equal(base, before[0]) and torch.equal(model, before[1])


def test_what_the_base_rules_out_adds_nothing_and_what_the_model_rules_out_is_infinite() -> None:
    base = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf]])
    model = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -torch.inf], [0.0, 0.0, -torch.inf]])
    found = compare_predictions(base, model, torch.zeros(3, dtype=torch.int64)).kl_divergence
    torch.testing.assert_close(found, torch.tensor([math.log(1.5), torch.inf, 0.0]))


@pytest.mark.parametrize("which", ["base", "model"])
def test_nan_stays_nan(which: str) -> None:
    base, model = torch.zeros(3, 4), torch.zeros(3, 4)
    {"base": base, "model": model}[which][1, 2] = torch.nan
    found = compare_predictions(base, model, torch.zeros(3, dtype=torch.int64))
    likelihood = found.base_nll if which == "base" else found.nll
    assert likelihood.isnan().tolist() == [False, True, False]
