"""Measure what a model loses against its base, token by token on the same text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.evaluation.scoring import Predictor
from qtoolkit.evaluation.statistics import Figure, mean, perplexity, quantile, root_mean_square
from qtoolkit.records import OnProgress, ProgressEvent, QualityReport
from qtoolkit.tensor.divergence import Prediction, compare_predictions, negative_log_likelihood
from qtoolkit.texts.windows import Windows

# From so many tokens on, ten or more lie above the quantile of 99.9 %; of fewer, it tells of single tokens.
_TOKENS_OF_A_TAIL = 10_000


def measure_quality(
    windows: Windows, model: Predictor, base: Predictor | None, on_progress: OnProgress
) -> QualityReport:
    """Compute the perplexity on a text, and the differences from a base model.

    Args:
        windows: the text.
        model: predicts its windows.
        base: predicts the same windows; None to measure the model alone.
        on_progress: called after each window.

    Raises:
        ConfigError: base and model have vocabularies of different sizes.
        CheckpointError: a model computes NaN; the message names the token.
    """
    started = time.monotonic()
    losses = windows_losses(windows, model, base, on_progress)
    report = quality_report(windows, losses, model=model.name, base=base.name if base else None)
    return replace(report, seconds=time.monotonic() - started)


# Of each token of a window that is predicted, on the CPU: its loss, and with a base the columns of a `Prediction`.
WindowLosses = tuple[torch.Tensor, ...]


def windows_losses(
    windows: Windows, model: Predictor, base: Predictor | None, on_progress: OnProgress, *, before: int = 0
) -> list[WindowLosses]:
    """Return the losses of each window, which knows nothing of the others.

    Args:
        windows, model, base, on_progress: as for `measure_quality`.
        before: windows of the text that come before these, which others measure; messages count them.

    Raises:
        ConfigError, CheckpointError: as `measure_quality`.
    """
    losses: list[WindowLosses] = []
    for index, first in enumerate(windows.first):
        losses.append(_window_losses(model, base, windows.tokens[index], index, first))
        _refuse_nan(losses[-1][:2], (model, base), before + index, first)
        on_progress(ProgressEvent("evaluate", index + 1, len(windows.tokens), "windows", model.name))
    return losses


def quality_report(windows: Windows, losses: Sequence[WindowLosses], *, model: str, base: str | None) -> QualityReport:
    """Return the figures of all windows; no time is told.

    Args:
        windows: the text.
        losses: of each window.
        model: what the model is called.
        base: what the base is called; None if losses are the model's alone.
    """
    count = len(windows.tokens)
    lengths = torch.tensor([len(window[0]) for window in losses])
    window_of = torch.arange(count).repeat_interleave(lengths)  # [tokens]
    nll, *others = (torch.cat(column) for column in zip(*losses, strict=True))
    compared = Prediction(nll, *others) if base else None
    figures = {"perplexity": perplexity(nll, window_of), **(_differences(compared, window_of) if compared else {})}
    return QualityReport(
        model=model,
        base=base,
        text=windows.name,
        text_fingerprint=windows.fingerprint,
        num_windows=count,
        seq_len=windows.tokens.shape[1],
        stride=windows.stride,
        begins_with=windows.begins_with,
        num_tokens=windows.num_predicted,
        notes=windows.notes,
        seconds=0.0,
        kl_divergence_max=compared.kl_divergence.max().item() if compared else None,
        **_with_errors(figures),
    )


def _window_losses(
    model: Predictor, base: Predictor | None, tokens: torch.Tensor, index: int, first: int
) -> WindowLosses:
    """Return the losses of one window's tokens from index `first` on, also of the base: columns [tokens] on the CPU."""
    # The logits of a token predict the next one.
    logits = model.logits(index)[first - 1 : -1]
    targets = tokens[first:].to(logits.device)
    if base is None:
        return (negative_log_likelihood(logits, targets).cpu(),)
    expected = base.logits(index)[first - 1 : -1].to(logits.device)
    if expected.shape[-1] != logits.shape[-1]:
        raise ConfigError(
            f"{base.name} knows {expected.shape[-1]} tokens and {model.name} {logits.shape[-1]}: "
            "give as base what the model was made from"
        )
    return tuple(column.cpu() for column in compare_predictions(expected, logits, targets))


def _differences(losses: Prediction, windows: torch.Tensor) -> dict[str, Figure]:
    """Compute the figures of a `QualityReport` that need a base, from the losses and the window of each token."""
    tail = {}
    if len(windows) >= _TOKENS_OF_A_TAIL:
        tail["kl_divergence_p999"] = quantile(losses.kl_divergence, windows, 0.999)
    return {
        "base_perplexity": perplexity(losses.base_nll, windows),
        # From differences of the same tokens, so that text that is hard for both models adds no error.
        "perplexity_ratio": perplexity(losses.nll - losses.base_nll, windows),
        "kl_divergence": mean(losses.kl_divergence, windows),
        "kl_divergence_median": quantile(losses.kl_divergence, windows, 0.5),
        "kl_divergence_p99": quantile(losses.kl_divergence, windows, 0.99),
        **tail,
        "same_top_p": mean(losses.same_top, windows),
        "rms_delta_p": root_mean_square(losses.delta_p, windows),
    }


def _with_errors(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return each figure as the two fields of a `QualityReport` that hold its value and its standard error."""
    return {
        field: value
        for name, figure in figures.items()
        for field, value in ((name, figure.value), (f"{name}_se", figure.error))
    }


def _refuse_nan(losses: tuple[torch.Tensor, ...], models: tuple[Predictor | None, ...], index: int, first: int) -> None:
    for nll, model in zip(losses, models, strict=False):
        if model is not None and nll.isnan().any():
            token = first - 1 + int(nll.isnan().nonzero()[0])
            raise CheckpointError(
                f"{model.name} computes NaN at token {token} of window {index}: load it in another dtype, or make it "
                "again"
            )
