"""Compare two models' predictions of the same tokens, token by token."""

from typing import NamedTuple

import torch

# Rows of logits that are in float32 at one time: with a vocabulary of 50,000 they fit a processor's cache.
_ROWS = 8


class Prediction(NamedTuple):
    """How two models predict each of some tokens; float32 or bool [tokens].

    Attributes:
        nll: the model's negative log-likelihood of the target token in nats.
        base_nll: the base model's.
        kl_divergence: KL(base || model) in nats.
        same_top: whether both models find the same token most likely.
        delta_p: the target token's probability by the model minus that by the base model.
    """

    nll: torch.Tensor
    base_nll: torch.Tensor
    kl_divergence: torch.Tensor
    same_top: torch.Tensor
    delta_p: torch.Tensor


def negative_log_likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of each target in nats, float32 [tokens].

    Args:
        logits: [tokens, vocabulary], any floating type.
        targets: int64 [tokens].

    Example: two equal logits give each token a probability of a half.

        >>> negative_log_likelihood(torch.zeros(1, 2), torch.tensor([0]))
        tensor([0.6931])
    """
    parts = zip(logits.split(_ROWS), targets.split(_ROWS), strict=True)
    return torch.cat([_Rows(part).nll(rows).float() for part, rows in parts])


def divergence_loss(base: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the mean KL(base || model) of a token in nats, through which gradients flow to the model alone.

    Args:
        base: logits of the base model [..., vocabulary], any floating type.
        logits: logits of the model, of the same shape.

    Example: as for `compare_predictions`.

        >>> divergence_loss(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log())
        tensor(0.1438)
    """
    expected = base.detach().float().log_softmax(-1)
    return (expected.exp() * (expected - logits.float().log_softmax(-1))).sum(-1).mean()


def compare_predictions(base: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> Prediction:
    """Compare the predictions of a base model and a model for the same tokens.

    KL(base || model) = sum over the vocabulary of p * (log p - log q), p by the base model and q by the model.

    Args:
        base: logits of the base model [tokens, vocabulary], any floating type.
        logits: logits of the model, on the same device.
        targets: the tokens to predict, int64 [tokens].

    Example: the base says 1/2 and 1/2, the model 3/4 and 1/4: KL = ln(2/3)/2 + ln(2)/2 = 0.1438.

        >>> base, model = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> compare_predictions(base, model, torch.tensor([0])).kl_divergence
        tensor([0.1438])
    """
    parts = zip(base.split(_ROWS), logits.split(_ROWS), targets.split(_ROWS), strict=True)
    rows = [_compare(_Rows(p), _Rows(q), part) for p, q, part in parts]
    return Prediction(*(torch.cat(column) for column in zip(*rows, strict=True)))


class _Rows:
    """A few rows of logits, each minus its maximum.

    Terms of sums over the vocabulary are float32, and the sums float64: a logarithm of 10 has an error of 5e-7 in
    float32, as large as some divergences.

    Attributes:
        logits: float32 [rows, vocabulary], at most 0.
        powers: exp(logits).
        log_sum: logarithm of the sum of the powers, float64 [rows].
    """

    def __init__(self, logits: torch.Tensor) -> None:
        values = logits.float()
        self.logits = values - values.amax(-1, keepdim=True)
        self.powers = self.logits.exp()
        self.log_sum = self.powers.sum(-1).double().log()

    def nll(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood of the targets, float64 [rows]."""
        # [rows, vocabulary] at [rows, 1] -> [rows]
        return self.log_sum - self.logits.gather(-1, targets[:, None]).squeeze(-1)


def _compare(base: _Rows, model: _Rows, targets: torch.Tensor) -> Prediction:
    """Compare the predictions of a few rows."""
    # A maximum is 0: if several tokens are the most likely, each counts as the same.
    same_top = model.logits.gather(-1, base.logits.argmax(-1, keepdim=True)).squeeze(-1) == 0  # [rows]
    base_nll = base.nll(targets)
    nll = model.nll(targets)
    # A token with probability 0 by the base model adds nothing, though the difference is infinite or NaN.
    difference = (base.logits - model.logits).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=0.0)
    weighted = torch.linalg.vecdot(base.powers, difference).double() / base.log_sum.exp()
    divergence = weighted - base.log_sum + model.log_sum
    delta_p = nll.neg().exp() - base_nll.neg().exp()
    return Prediction(nll.float(), base_nll.float(), divergence.float(), same_top, delta_p.float())
