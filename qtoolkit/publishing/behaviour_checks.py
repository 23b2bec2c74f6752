"""Checks of what a fresh process saw against what was written down, and against the base."""

from collections.abc import Callable
from math import exp, inf, isnan, sqrt
from typing import Any

from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import AGAIN, of
from qtoolkit.records import Behaviour, Check, Probe

# Float16 instead of bfloat16 moves logits of SmolLM2-135M in NF4 by 0.02 of their standard deviation and the loss by
# 0.003 nats; zero points that are read one step off move them by more than 0.3, and the loss by nats.
MOST_LOGITS = 0.1
MOST_LOSS = 0.05
_Pick = Callable[[dict[str, Any]], Any]


def check_loading(answer: dict[str, Any], reader: str) -> Check:
    """Whether the model loads, every weight in its place."""
    name = "loads in transformers"
    if answer["model_error"]:
        return Check(name, False, answer["model_error"], AGAIN)
    problems = [f"{kind.replace('_', ' ')}: {', '.join(keys[:3])}" for kind, keys in answer["keys"].items()]
    return of(name, problems, f"{answer['model']}, transformers {answer['transformers']}, {reader}", AGAIN)


def check_logits(answer: dict[str, Any], probe: Probe | None) -> Check:
    """Whether the logits are those that were measured: the root of their mean squared difference, in deviations."""
    name = "logits"
    unknown = _unknown(name, answer, probe)
    if unknown or probe is None:
        return unknown or Check(name, None, "not known")
    worst = 0.0
    for found, wanted, std in zip(answer["logits"], probe.top_logits, probe.std, strict=True):
        squares = [(one - other) ** 2 for one, other in zip(found, wanted, strict=True)]
        distance = sqrt(sum(squares) / len(squares)) / (std or 1.0)
        worst = max(worst, inf if isnan(distance) else distance)
    seen = f"off by {worst:.3g} of their standard deviation, {MOST_LOGITS} allowed"
    return Check(name, worst <= MOST_LOGITS, seen, "" if worst <= MOST_LOGITS else AGAIN)


def check_perplexity(answer: dict[str, Any], probe: Probe | None) -> Check:
    """Whether the perplexity on the probe is the one that was measured."""
    name = "perplexity"
    unknown = _unknown(name, answer, probe)
    if unknown or probe is None:
        return unknown or Check(name, None, "not known")
    holds = abs(answer["loss"] - probe.loss) <= MOST_LOSS
    seen = f"{_exp(answer['loss'])} on {len(probe.token_ids)} tokens, {_exp(probe.loss)} when it was made"
    return Check(name, holds, f"{seen}, {exp(MOST_LOSS) - 1:.0%} allowed", "" if holds else AGAIN)


def check_behaviour(artifact: Artifact, answer: dict[str, Any], base: dict[str, Any] | None) -> list[Check]:
    """Whether token ids, chat template, special tokens and generation config are those of the base.

    Args:
        artifact: the folder.
        answer: what a fresh process saw of it.
        base: what it saw of the base; None where that is not at hand.
    """
    receipt = artifact.receipt.behaviour if artifact.receipt else None
    made = _as_answer(receipt) if receipt else None
    wanted, by = (base, "the base") if base else (made, "the receipt")
    parts: tuple[tuple[str, _Pick, str], ...] = (
        ("token ids", lambda said: (said["tokenizer"] or {}).get("token_ids"), "tokenizer_error"),
        ("chat template", lambda said: (said["tokenizer"] or {}).get("chat_template"), "tokenizer_error"),
        ("special tokens", lambda said: (said["tokenizer"] or {}).get("special_tokens") or None, "tokenizer_error"),
        ("generation config", lambda said: said["generation"], "generation_error"),
    )
    return [_compare(name, pick, answer, wanted, by, answer[error]) for name, pick, error in parts]


def _compare(
    name: str, pick: _Pick, answer: dict[str, Any], wanted: dict[str, Any] | None, by: str, error: str
) -> Check:
    found = pick(answer)
    if wanted is None:
        return Check(name, None, error or _shown(found), "neither a receipt nor the base tells what they were")
    expected = pick(wanted)
    if expected is None:
        # A folder may have what its base lacks: a generation config is then derived from the config.
        return Check(name, None, _shown(found), f"{by} has none")
    if found is None:
        return Check(name, False, error or "none", f"{by} has some: {AGAIN}")
    if isinstance(expected, dict):
        keys = [key for key in sorted({*expected, *found}) if found.get(key) != expected.get(key)]
        odd = [f"{key} is {found.get(key)} instead of {expected.get(key)}" for key in keys]
        return of(name, odd, _shown(found), AGAIN)
    same = expected == found
    return Check(name, same, f"as in {by}" if same else f"other than in {by}", "" if same else AGAIN)


def _as_answer(behaviour: Behaviour) -> dict[str, Any]:
    """What a receipt says in the form of a fresh process's answer."""
    values = behaviour.to_dict()
    tokenizer = {key: values[key] for key in ("token_ids", "chat_template", "special_tokens")}
    return {"tokenizer": tokenizer, "generation": values["generation"]}


def _unknown(name: str, answer: dict[str, Any], probe: Probe | None) -> Check | None:
    """A check that cannot be made: nothing was measured then, or nothing now."""
    if answer["model_error"] or answer["loss"] is None:
        return Check(name, None, "not measured", "the model does not load")
    if probe is None:
        return Check(name, None, "not compared", "nothing tells what it was when the model was made")
    return None


def _exp(loss: float) -> str:
    # A loss of 700 nats is as much as a float holds.
    return "NaN" if isnan(loss) else f"{exp(min(loss, 700.0)):.2f}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "none" if value is None else "as it is"
