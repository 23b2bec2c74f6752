"""How two models' predictions of the same tokens differ, token by token."""

from typing import NamedTuple

import torch

# Rows of logits that are in float32 at one time: with a vocabulary of 50,000 they fit the processor's cache.
_ROWS = 16


class Prediction(NamedTuple):
    """What two models make of each of some tokens; float32 or bool [tokens].

    Attributes:
        nll: negative log-likelihood of the right token in nats, by the model.
        base_nll: the same by the base.
        kl_divergence: of the base's distribution to the model's, in nats.
        same_top: whether both hold the same token for the likeliest.
        delta_p: the right token's probability by the model, less that by the base.
    """

    nll: torch.Tensor
    base_nll: torch.Tensor
    kl_divergence: torch.Tensor
    same_top: torch.Tensor
    delta_p: torch.Tensor


def negative_log_likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of each target in nats, float32 [tokens].

    Args:
        logits: [tokens, vocabulary], any floating type.
        targets: int64 [tokens].

    Example: two equal logits give each token a probability of a half.

        >>> negative_log_likelihood(torch.zeros(1, 2), torch.tensor([0]))
        tensor([0.6931])
    """
    parts = zip(logits.split(_ROWS), targets.split(_ROWS), strict=True)
    return torch.cat([_log_probability(part.float().log_softmax(-1), wanted).neg() for part, wanted in parts])


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
    rows = [_compare(p.float().log_softmax(-1), q.float().log_softmax(-1), wanted) for p, q, wanted in parts]
    return Prediction(*(torch.cat(column) for column in zip(*rows, strict=True)))


def _compare(log_p: torch.Tensor, log_q: torch.Tensor, targets: torch.Tensor) -> Prediction:
    """The same of log-probabilities float32 [rows, vocabulary], which it overwrites."""
    right_p, right_q = _log_probability(log_p, targets), _log_probability(log_q, targets)
    same_top = log_p.argmax(-1) == log_q.argmax(-1)
    p = log_p.exp()
    # A token that the base rules out adds nothing, though its logarithm is -infinity.
    difference = log_p.sub_(log_q).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=0.0)
    divergence = p.mul_(difference).sum(-1)
    return Prediction(-right_q, -right_p, divergence, same_top, right_q.exp() - right_p.exp())


def _log_probability(log_p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # [rows, vocabulary] at [rows, 1] -> [rows]
    return log_p.gather(-1, targets[:, None]).squeeze(-1)
