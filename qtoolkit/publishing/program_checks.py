"""Check that the program that a model's one file is written for runs it, where that program is installed here."""

from collections.abc import Callable
from math import exp
from typing import Any

from qtoolkit.errors import oneline
from qtoolkit.formats import FileFormat
from qtoolkit.optional import is_installed
from qtoolkit.publishing.artifact import Artifact
from qtoolkit.publishing.file_checks import AGAIN
from qtoolkit.publishing.process import NoAnswerError, NoMemoryError
from qtoolkit.records import Check, Probe

# llama.cpp rounds the inputs of products to 8 bits, which moves single logits of SmolLM2-135M by up to half of their
# standard deviation, and the loss on a few tokens by hundredths of a nat; a tensor in another order moves it by nats.
MOST_LOSS = 0.2


def check_program(artifact: Artifact, run: Callable[[dict[str, Any]], dict[str, Any]]) -> list[Check]:
    """Check that llama.cpp runs the file of a folder, in a process of its own, and predicts as when it was made.

    Args:
        artifact: the folder; of other formats there is nothing to check.
        run: answers a request as `run_behaviour` does.
    """
    format_ = artifact.format
    if not isinstance(format_, FileFormat) or not artifact.weight_files:
        return []
    name = f"runs in {format_.program}"
    if not is_installed(format_.binding):
        return [Check(name, None, "not tried", f"{format_.binding.replace('_', '-')}-python is not installed here")]
    probe = artifact.receipt.probe if artifact.receipt else None
    request = {
        "folder": str(artifact.path),
        "base": None,
        "with_qtoolkit": True,
        format_.binding: artifact.weight_files[0],
        "token_ids": list(probe.token_ids) if probe else [],
    }
    try:
        answer = run(request)
    except NoMemoryError as error:
        return [Check(name, None, f"not tried: {oneline(error)}", "close what takes memory, or verify elsewhere")]
    except NoAnswerError as error:
        return [Check(name, False, str(error), AGAIN)]
    return [_compared(name, answer, probe)]


def _compared(name: str, answer: dict[str, Any], probe: Probe | None) -> Check:
    """Return the check of what a process saw, against what the job measured; None where it measured nothing."""
    if answer["model_error"]:
        return Check(name, False, answer["model_error"], AGAIN)
    # A loss beyond this is no model's, and its exponential no float.
    loss = min(answer["loss"], 700.0)
    seen = f"perplexity {exp(loss):.5g}"
    if probe is None:
        return Check(name, True, seen, "nothing tells what it was when the model was made")
    wanted = f"{exp(min(probe.loss, 700.0)):.5g} in transformers when it was made, {exp(MOST_LOSS) - 1:.0%} allowed"
    holds = abs(loss - probe.loss) <= MOST_LOSS
    return Check(name, holds, f"{seen} on {len(probe.token_ids)} tokens, {wanted}", "" if holds else AGAIN)
