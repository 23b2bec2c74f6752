"""Check what a fresh process saw of a model against what the job measured, and against the base."""

from math import exp, inf, isnan, sqrt
from typing import Any

from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import AGAIN, check_of
from qtoolkit.records import Check, Probe

# Float16 instead of bfloat16 moves logits of SmolLM2-135M in NF4 by 0.02 of their standard deviation and the loss by
# 0.003 nats; zero points that are read one step off move them by more than 0.3, and the loss by nats.
MOST_LOGITS = 0.1
MOST_LOSS = 0.05
# Check -> the key of what it compares, and of why that could not be read.
_PARTS = {
    "token ids": ("token_ids", "tokenizer_error"),
    "chat template": ("chat_template", "tokenizer_error"),
    "special tokens": ("special_tokens", "tokenizer_error"),
    "generation config": ("generation", "generation_error"),
}


def check_loading(answer: dict[str, Any], reader: str) -> Check:
    """Check that transformers loads the model, with a value for every weight and no weight left over.

    Args:
        answer: what a fresh process saw, from `qtoolkit.publishing.behaviour`.
        reader: with what help it loaded the model, for the row.
    """
    name = "loads in transformers"
    if answer["model_error"]:
        return Check(name, False, answer["model_error"], AGAIN)
    problems = [f"{kind.replace('_', ' ')}: {', '.join(keys[:3])}" for kind, keys in answer["keys"].items()]
    return check_of(name, problems, f"{answer['model']}, transformers {answer['transformers']}, {reader}")


def check_outputs(answer: dict[str, Any], probe: Probe | None) -> list[Check]:
    """Check that logits and perplexity on a few tokens are those that the job measured.

    Args:
        answer: what a fresh process saw.
        probe: what the job measured; None where nothing was.
    """
    names = ("logits", "perplexity")
    if answer["model_error"] or answer["loss"] is None:
        return [Check(name, None, "not measured", "the model does not load") for name in names]
    if probe is None:
        note = "nothing tells what it was when the model was made"
        return [Check(name, None, "not compared", note) for name in names]
    distance = _distance(answer["logits"], probe)
    logits = f"off by {distance:.3g} of their standard deviation, {MOST_LOGITS} allowed"
    loss = answer["loss"]
    perplexity = f"{_exp(loss)} on {len(probe.token_ids)} tokens, {_exp(probe.loss)} when it was made"
    return [
        _compared("logits", distance <= MOST_LOGITS, logits),
        _compared("perplexity", abs(loss - probe.loss) <= MOST_LOSS, f"{perplexity}, {exp(MOST_LOSS) - 1:.0%} allowed"),
    ]


def _distance(logits: list[list[float]], probe: Probe) -> float:
    """Return the root mean square difference of logits, in standard deviations, at the position where it is largest."""
    worst = 0.0
    for found, wanted, std in zip(logits, probe.top_logits, probe.std, strict=True):
        squares = [(one - other) ** 2 for one, other in zip(found, wanted, strict=True)]
        distance = sqrt(sum(squares) / len(squares)) / (std or 1.0)
        worst = max(worst, inf if isnan(distance) else distance)
    return worst


def check_behaviour(artifact: Artifact, answer: dict[str, Any], base: dict[str, Any] | None) -> list[Check]:
    """Check that token ids, chat template, special tokens and generation config are those of the base.

    Args:
        artifact: the folder.
        answer: what a fresh process saw of it.
        base: what it saw of the base; None where that is not at hand, and the receipt stands in for it.
    """
    found = _comparable(answer["tokenizer"], answer["generation"])
    wanted, source = None, "the receipt"
    if base:
        wanted, source = _comparable(base["tokenizer"], base["generation"]), "the base"
    elif artifact.receipt:
        behaviour = artifact.receipt.behaviour.to_dict()
        wanted = _comparable(behaviour, behaviour["generation"])
    return [_compare(name, key, found, wanted, source, answer[error]) for name, (key, error) in _PARTS.items()]


def _comparable(tokenizer: dict[str, Any] | None, generation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the values that are compared, by the keys in `_PARTS`; None for each that a model does not have."""
    values = tokenizer or {}
    return {
        "token_ids": values.get("token_ids"),
        "chat_template": values.get("chat_template"),
        "special_tokens": values.get("special_tokens") or None,
        "generation": generation,
    }


def _compare(
    name: str, key: str, found: dict[str, Any], wanted: dict[str, Any] | None, source: str, error: str
) -> Check:
    """Compare one value with the wanted one; of two dicts, each entry.

    Args:
        name: of the check.
        key: of the value in `found` and `wanted`.
        found, wanted: from `_comparable`; None where nothing is known of what is wanted.
        source: where `wanted` comes from, for the row.
        error: why `found` could not be read; empty otherwise.
    """
    value = found[key]
    if wanted is None:
        return Check(name, None, error or _shown(value), "neither a receipt nor the base tells what they were")
    expected = wanted[key]
    if expected is None:
        # A folder may have what its base lacks: a generation config is then derived from the config.
        return Check(name, None, _shown(value), f"{source} has none")
    if value is None:
        return Check(name, False, error or "none", f"{source} has some: {AGAIN}")
    if isinstance(expected, dict):
        keys = [key for key in sorted({*expected, *value}) if value.get(key) != expected.get(key)]
        problems = [f"{key} is {value.get(key)} instead of {expected.get(key)}" for key in keys]
        return check_of(name, problems, _shown(value))
    same = expected == value
    return _compared(name, same, f"as in {source}" if same else f"other than in {source}")


def _compared(name: str, holds: bool, seen: str) -> Check:
    """Return a check of what was seen; what to do where it does not hold is to get the model again."""
    return Check(name, holds, seen, "" if holds else AGAIN)


def _exp(loss: float) -> str:
    """Return the perplexity of a loss as text."""
    # A loss of 700 nats is as much as a float holds.
    return "NaN" if isnan(loss) else f"{exp(min(loss, 700.0)):.2f}"


def _shown(value: Any) -> str:
    """Return how a value is shown: a dict by its entries, a fingerprint not at all."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "none" if value is None else "as it is"
