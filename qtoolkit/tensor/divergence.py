"""How two models' predictions of the same tokens differ, token by token."""

from typing import NamedTuple

import torch

# Rows of logits that are in float32 at one time: with a vocabulary of 50,000 they fit the processor's cache.
_ROWS = 8


class Prediction(NamedTuple):
    """What two models make of each of some tokens; float32 or bool [tokens].

    Attributes:
        nll: negative log-likelihood of the right token in nats, by the model.
        base_nll: the same by the base.
        kl_divergence: of the base's distribution to the model's, in nats.
        same_top: whether the base's likeliest token is the model's too.
        delta_p: the right token's probability by the model, less that by the base.
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
    return torch.cat([_Rows(part).nll(wanted).float() for part, wanted in parts])


def compare_predictions(base: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> Prediction:
    """What a base and a model make of the same tokens.

    KL(base || model) = sum over the vocabulary of p * (log p - log q), p by the base and q by the model.

    Args:
        base: logits of the base [tokens, vocabulary], any floating type.
        logits: those of the model, on the same device.
        targets: the right tokens, int64 [tokens].

    Example: the base says 1/2 and 1/2, the model 3/4 and 1/4: KL = ln(2/3)/2 + ln(2)/2 = 0.1438.

        >>> base, model = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
        >>> compare_predictions(base, model, torch.tensor([0])).kl_divergence
        tensor([0.1438])
    """
    parts = zip(base.split(_ROWS), logits.split(_ROWS), targets.split(_ROWS), strict=True)
    rows = [_compare(_Rows(p), _Rows(q), wanted) for p, q, wanted in parts]
    return Prediction(*(torch.cat(column) for column in zip(*rows, strict=True)))


class _Rows:
    """A few rows of logits, less the largest of each.

    What is summed up over the vocabulary is in float32, and what is left of a row in float64: a logarithm of 10 has an
    error of 5e-7 in float32, as large as some divergences.

    Attributes:
        logits: float32 [rows, vocabulary], at most 0.
        powers: exp of them.
        log_sum: logarithm of their sum, float64 [rows].
    """

    def __init__(self, logits: torch.Tensor) -> None:
        values = logits.float()
        self.logits = values - values.amax(-1, keepdim=True)
        self.powers = self.logits.exp()
        self.log_sum = self.powers.sum(-1).double().log()

    def nll(self, targets: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of the targets, float64 [rows]."""
        # [rows, vocabulary] at [rows, 1] -> [rows]
        return self.log_sum - self.logits.gather(-1, targets[:, None]).squeeze(-1)


def _compare(base: _Rows, model: _Rows, targets: torch.Tensor) -> Prediction:
    # The largest is 0, so that equally likely ones count as the same.
    same_top = model.logits.gather(-1, base.logits.argmax(-1, keepdim=True)).squeeze(-1) == 0  # [rows]
    base_nll, nll = base.nll(targets), model.nll(targets)
    # A token that the base rules out adds nothing, though the difference is infinite or none.
    difference = (base.logits - model.logits).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=0.0)
    moved = torch.linalg.vecdot(base.powers, difference).double() / base.log_sum.exp()
    divergence = moved - base.log_sum + model.log_sum
    delta_p = nll.neg().exp() - base_nll.neg().exp()
    return Prediction(nll.float(), base_nll.float(), divergence.float(), same_top, delta_p.float())
