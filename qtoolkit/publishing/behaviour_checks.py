"""Check what a fresh process saw of a model against what the job measured, and against the base."""

from dataclasses import replace
from math import exp, inf, isnan, sqrt
from typing import Any

from qtoolkit.formats import FileFormat
from qtoolkit.noted import Noted
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import AGAIN, check_of
from qtoolkit.records import Check, Probe

# Float16 instead of bfloat16 moves logits of SmolLM2-135M in NF4 by 0.02 of their standard deviation and the loss by
# 0.003 nats; zero points that are read one step off move them by more than 0.3, and the loss by nats.
MOST_LOGITS = 0.1
MOST_LOSS = 0.05
# Check -> the field of `Behaviour` that it compares.
_PARTS = {
    "token ids": "token_ids",
    "chat template": "chat_template",
    "special tokens": "special_tokens",
    "generation config": "generation",
}


def check_loading(answer: dict[str, Any], reader: str, note: str = "") -> Check:
    """Check that transformers loads the model, with a value for every weight and no weight left over.

    Args:
        answer: what a fresh process saw, from `qtoolkit.publishing.behaviour`.
        reader: with what help it loaded the model, for the row.
        note: on layers that it does not run right everywhere; empty for none.
    """
    name = "loads in transformers"
    if answer["model_error"]:
        return Check(name, False, answer["model_error"], AGAIN)
    problems = [f"{kind.replace('_', ' ')}: {', '.join(keys[:3])}" for kind, keys in answer["keys"].items()]
    check = check_of(name, problems, f"{answer['model']}, transformers {answer['transformers']}, {reader}")
    return replace(check, note=note) if check.passed else check


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
    for seen, wanted, std in zip(logits, probe.top_logits, probe.std, strict=True):
        squares = [(one - other) ** 2 for one, other in zip(seen, wanted, strict=True)]
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
    receipt = artifact.receipt.behaviour.to_dict() if artifact.receipt else None
    wanted, source = (base, "the base") if base else (receipt, "the receipt")
    checks = [_compare(name, key, answer, wanted, source) for name, key in _PARTS.items()]
    if not isinstance(artifact.format, FileFormat) or not artifact.weight_files:
        return checks
    own = artifact.format.compare_tokens(artifact.path / artifact.weight_files[0])
    return [_with_own_tokens(check, own) if check.name == "token ids" else check for check in checks]


def _with_own_tokens(check: Check, own: Noted[str]) -> Check:
    """Return the check of token ids with what was seen of the tokenizer that a file of another program holds.

    Args:
        check: of the tokenizer beside the file.
        own: as `FileFormat.compare_tokens` returns it.
    """
    if own.value:
        return Check(check.name, False, f"by the file's own tokenizer, {own.value}", AGAIN)
    return replace(check, note="; ".join(filter(None, [check.note, *own.notes])))


def _compare(name: str, key: str, answer: dict[str, Any], wanted: dict[str, Any] | None, source: str) -> Check:
    """Compare one value of a folder with the wanted one; of two dicts, each entry.

    Args:
        name: of the check.
        key: of the value in `answer` and `wanted`.
        answer: what a fresh process saw of the folder.
        wanted: the values of its base; None where nothing is known of them.
        source: where `wanted` comes from, for the row.
    """
    value = _value(answer, key)
    error = answer["generation_error" if key == "generation" else "tokenizer_error"]
    if wanted is None:
        return Check(name, None, error or _shown(value), "neither a receipt nor the base tells what they were")
    expected = _value(wanted, key)
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


def _value(values: dict[str, Any], key: str) -> Any:
    """Return a field of `Behaviour`; None also where a tokenizer has no special tokens at all."""
    return values[key] or None if key == "special_tokens" else values[key]


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
