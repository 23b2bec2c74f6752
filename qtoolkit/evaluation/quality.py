"""What a model lost, token by token, on the same text as its base."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from qtoolkit.errors import CheckpointError, ConfigError
from qtoolkit.evaluation.scoring import Predictor
from qtoolkit.evaluation.statistics import Figure, mean, perplexity, quantile, root_mean_square
from qtoolkit.records import OnProgress, ProgressEvent, QualityReport
from qtoolkit.tensor.divergence import Prediction, compare_predictions, negative_log_likelihood
from qtoolkit.texts.windows import Windows


def measure_quality(
    windows: Windows, model: Predictor, base: Predictor | None, on_progress: OnProgress
) -> QualityReport:
    """Perplexity on a text, and what changed against a base.

    Args:
        windows: the text.
        model: predicts its windows.
        base: predicts them too; None to measure the model alone.
        on_progress: told of each window.

    Raises:
        ConfigError: base and model have vocabularies of different sizes.
        CheckpointError: a model computes NaN; the message says where.
    """
    started, count = time.monotonic(), len(windows.tokens)
    columns: list[tuple[torch.Tensor, ...]] = []
    for index, first in enumerate(windows.first):
        found = _window(model, base, windows.tokens[index], index, first)
        _refuse_nan(found[:2], (model, base), index, first)
        columns.append(found)
        on_progress(ProgressEvent("evaluate", index + 1, count, "windows", model.name))
    lengths = torch.tensor([len(window[0]) for window in columns])
    place = torch.arange(count).repeat_interleave(lengths)  # [tokens]
    nll, *others = (torch.cat(column) for column in zip(*columns, strict=True))
    changed = Prediction(nll, *others) if base else None
    figures = {"perplexity": perplexity(nll, place), **(_changes(changed, place) if changed else {})}
    return QualityReport(
        model=model.name,
        base=base.name if base else None,
        text=windows.name,
        text_fingerprint=windows.fingerprint,
        num_windows=count,
        seq_len=windows.tokens.shape[1],
        stride=windows.stride,
        begins_with=windows.begins_with,
        num_tokens=windows.num_predicted,
        notes=windows.notes,
        seconds=time.monotonic() - started,
        kl_divergence_max=changed.kl_divergence.max().item() if changed else None,
        **_with_errors(figures),
    )


def _window(
    model: Predictor, base: Predictor | None, tokens: torch.Tensor, index: int, first: int
) -> tuple[torch.Tensor, ...]:
    """What the model, and its base, make of one window's tokens from place `first` on; on the CPU."""
    # What stands at a place predicts the token after it.
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


def _changes(found: Prediction, windows: torch.Tensor) -> dict[str, Figure]:
    """The figures of a `QualityReport` that need a base."""
    return {
        "base_perplexity": perplexity(found.base_nll, windows),
        # Of the same tokens, so that what is hard for both does not count.
        "perplexity_ratio": perplexity(found.nll - found.base_nll, windows),
        "kl_divergence": mean(found.kl_divergence, windows),
        "kl_divergence_median": quantile(found.kl_divergence, windows, 0.5),
        "kl_divergence_p99": quantile(found.kl_divergence, windows, 0.99),
        "same_top_p": mean(found.same_top, windows),
        "rms_delta_p": root_mean_square(found.delta_p, windows),
    }


def _with_errors(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Each figure as the two fields of a `QualityReport` that hold it."""
    return {
        field: value
        for name, figure in figures.items()
        for field, value in ((name, figure.value), (f"{name}_se", figure.error))
    }


def _refuse_nan(found: tuple[torch.Tensor, ...], models: tuple[Predictor | None, ...], window: int, first: int) -> None:
    for nll, model in zip(found, models, strict=False):
        if model is not None and nll.isnan().any():
            place = first - 1 + int(nll.isnan().nonzero()[0])
            raise CheckpointError(
                f"{model.name} computes NaN at token {place} of window {window}: load it in another dtype, or make it "
                "again"
            )
