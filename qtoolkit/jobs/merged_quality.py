"""Measure what merging an adapter costs: model and adapter kept apart, and merged, beside base and adapter."""

from dataclasses import replace
from typing import Any

import torch

from qtoolkit.adapters.adapter_folder import A, B
from qtoolkit.adapters.adapter_reading import Adapter
from qtoolkit.adapters.applied import with_adapter
from qtoolkit.errors import ConfigError
from qtoolkit.evaluation.scoring import LoadedScorer, StreamedScorer
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_loading import load_quantized
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import Opened, check_overlap, cut_windows
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.planning.device import adapt_dtype, resolve_device
from qtoolkit.publishing import write_receipt
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import QualityReport
from qtoolkit.requests import EvaluateRequest, MergeRequest, ModelSource
from qtoolkit.texts.texts import check_texts, is_self


def check_measured(request: MergeRequest) -> None:
    """Refuse a text that cannot be measured on, before any work.

    Raises:
        ConfigError: it cannot.
    """
    if request.text is None:
        return
    check_texts(request.text, "text")
    if is_self(request.text):
        raise ConfigError("a merge is measured on a text that is there, and 'self' is written by a model: give another")


def with_quality(
    merged: QuantizedModel, request: MergeRequest, adapter: Adapter, *, total: Checkpoint | None
) -> QuantizedModel:
    """Return a merged model with a note of what was measured; without a text, with a note of how to measure it.

    Args:
        merged: the result.
        request: what was asked for: the quantized model, and the text.
        adapter: that was merged.
        total: the sum in full precision, which both are compared with; None to compare with what was kept apart.
    """
    if request.text is None:
        return merged
    device = resolve_device(request.device)
    apart = opened_model(request, device)
    asked = EvaluateRequest(
        model=merged, text=request.text, seq_len=request.seq_len, num_tokens=request.num_tokens, token=request.token
    )
    found = merged.report.calibration
    passages = found.sketch if found else ()
    opened = Opened(LoadedScorer(merged.name, merged.model), merged.tokenizer, merged.model.config, passages=passages)
    windows = check_overlap(cut_windows(asked, opened, device=device, on_progress=request.report), opened)
    kept = LoadedScorer(f"{apart.name}, and the adapter", apart.model)
    base = kept if total is None else StreamedScorer(adapt_dtype(total, device), device)

    def measured(scorer: LoadedScorer, expected: Any) -> QualityReport:
        with scorer.open(windows.tokens, request.report) as predictor:
            return measure_quality(windows, predictor, expected, request.report)

    with quiet_layers(), base.open(windows.tokens, request.report) as expected:
        if total is None:
            with with_adapter(apart.model, tensors_of(adapter)):
                before = measured(kept, None)
                after = measured(LoadedScorer(merged.name, merged.model), expected)
        else:
            with with_adapter(apart.model, tensors_of(adapter)):
                before = measured(kept, expected)
            after = measured(LoadedScorer(merged.name, merged.model), expected)
    of = "model and adapter kept apart" if total is None else "base and adapter in full precision"
    kept_apart = f"perplexity {before.perplexity:.4g} kept apart, {after.perplexity:.4g} merged"
    told = f"{after.kl_divergence:.4g} merged"
    if before.kl_divergence is not None:
        told = f"{before.kl_divergence:.4g} kept apart, {told}"
    note = (
        f"measured on {windows.name} ({windows.num_predicted:,} tokens): {kept_apart}; KL divergence from {of} {told}"
    )
    with_note(merged, note)
    if merged.receipt is not None and merged.path is not None:
        merged.receipt = write_receipt(merged.path, merged.receipt)
    return merged


def opened_model(request: MergeRequest, device: str) -> QuantizedModel:
    """Return the quantized model of a request, loaded if it is named."""
    if isinstance(request.model, QuantizedModel):
        return request.model
    source = ModelSource(revision=request.revision, token=request.token)
    return load_quantized(adapt_dtype(open_source(request.model, source, quantized=True), device), device)


def tensors_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return an adapter's matrices as those of the scaling 1, as `write_adapter` names them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, change in adapter.changes.items():
        tensors |= {f"{name}.{A}": change.scaling * change.a.float(), f"{name}.{B}": change.b.float()}
    return tensors


def with_note(model: QuantizedModel, note: str) -> QuantizedModel:
    """Return a model, with a note added to its report, and to its receipt before that is written."""
    model.report = replace(model.report, notes=(*model.report.notes, note))
    if model.receipt is not None:
        model.receipt = replace(model.receipt, notes=(*model.receipt.notes, note))
    return model
