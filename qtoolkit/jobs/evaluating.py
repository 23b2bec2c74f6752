"""One evaluation: what is given is opened, the text is cut, and base and model predict it one after the other."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from qtoolkit.errors import ConfigError
from qtoolkit.evaluation import (
    LoadedScorer,
    OpenedScorer,
    Predictor,
    Scorer,
    StreamedScorer,
    measure_generation,
    measure_quality,
)
from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.formats import quiet_layers, side_file_names
from qtoolkit.jobs.loading import check_room_to_load, load_quantized
from qtoolkit.measure import explained, guarded, hardware, measure_peak
from qtoolkit.models import Checkpoint, find_tokenizer, open_checkpoint
from qtoolkit.models.structure import block_list
from qtoolkit.noted import Noted
from qtoolkit.optional import is_installed
from qtoolkit.planning import adapt_dtype
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import CalibrationReport, OnProgress, QualityReport, Receipt, ignore_progress
from qtoolkit.stream import load_streamed
from qtoolkit.texts.overlap import overlap, sketch
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.texts.windows import Windows, check_window_options, load_windows, written_windows

# Passages in common, and their share, from which a text is refused; fewer are quotations.
_PASSAGES, _OVERLAP = 3, 0.05
# Windows that the noise floor is measured on: it needs few, and float32 is slow.
_NOISE_WINDOWS = 8
# What speed is measured with.
_PROMPT, _NEW_TOKENS, _RUNS = 128, 32, 3


@dataclass(frozen=True)
class Opened:
    """A model as an evaluation meets it.

    Attributes:
        scorer: predicts tokens.
        tokenizer: None where none is known.
        config: transformers' config; None for an object with `logits` alone.
        checkpoint: in full precision, not read yet; None for what is loaded or quantized.
        passages: of the text that it was calibrated on, as `sketch` gives them; empty where none is known.
        notes: what was decided while it was opened, one line each; its predictor has those of loading.
        weights_fingerprint: of its receipt; None where it has none.
    """

    scorer: Scorer
    tokenizer: Any
    config: Any = None
    checkpoint: Checkpoint | None = None
    passages: tuple[int, ...] = ()
    notes: Sequence[str] = ()
    weights_fingerprint: str | None = None


_LESS = "give fewer num_tokens, or a smaller seq_len"


@explained("the evaluation", _LESS)
def evaluate_model(
    model: Any,
    *,
    base: Any | None,
    text: Any,
    options: Mapping[str, Any],
    device: str,
    sources: Mapping[str, Any],
    on_progress: OnProgress,
    noise_floor: bool,
    speed: bool,
) -> QualityReport:
    """Do what `qtoolkit.evaluate` tells.

    Args:
        model, base, text, on_progress, noise_floor, speed: as there.
        options: seq_len, num_tokens and stride.
        device: "cpu" or "cuda:0".
        sources: revision, token and tokenizer of the model.
    """
    started = time.monotonic()
    check_window_options(text, **options)
    on_progress = guarded(on_progress, "the evaluation", _LESS)
    candidate = open_model(model, device=device, sources=sources, on_progress=on_progress, runs_gguf=True)
    reference = None
    if base is not None:
        # The revision is the model's.
        origin = {**sources, "revision": None}
        reference = open_model(base, device=device, sources=origin, on_progress=on_progress)
    if noise_floor and (reference is None or reference.checkpoint is None):
        raise ConfigError("noise_floor=True needs a base in full precision: name its folder or Hub id as base=")
    windows = cut_windows(
        text,
        reference or candidate,
        options=options,
        token=sources["token"],
        device=device,
        on_progress=on_progress,
    )
    windows = check_overlap(windows, candidate)
    with reference.scorer.open(windows.tokens, on_progress) if reference else nullcontext() as expected:
        with candidate.scorer.open(windows.tokens, on_progress) as predictor, quiet_layers():
            report = measure_quality(windows, predictor, expected, on_progress)
            report = with_origin(report, candidate, reference.checkpoint if reference else None, device)
            if speed:
                report = with_speed(report, predictor, windows, on_progress)
        if noise_floor:
            assert reference is not None
            report = with_noise_floor(report, measure_noise_floor(windows, reference, device, on_progress))
    of_reference = (*reference.notes, *expected.notes) if reference and expected else ()
    notes = (*of_reference, *candidate.notes, *predictor.notes)
    return replace(report, seconds=time.monotonic() - started, notes=(*report.notes, *dict.fromkeys(notes)))


def open_model(
    model: Any, *, device: str, sources: Mapping[str, Any], on_progress: OnProgress, runs_gguf: bool = False
) -> Opened:
    """Whatever the user calls a model, opened, and not read yet where it is named.

    Args:
        model, device, sources, on_progress: as for `evaluate_model`.
        runs_gguf: let llama.cpp run a `.gguf` file where it is installed, as the file's users do; otherwise it is
            expanded to full precision.

    Raises:
        QToolkitError: as `qtoolkit.load`.
    """
    tokenizer = sources["tokenizer"]
    scorer: Scorer
    if isinstance(model, QuantizedModel):
        scorer = LoadedScorer(model.name, model.model)
        known: dict[str, Any] = _known(model.report.calibration, model.receipt)
        return Opened(scorer, tokenizer or model.tokenizer, model.model.config, **known)
    if isinstance(model, PreTrainedModel):
        name = model.name_or_path or type(model).__name__
        return Opened(LoadedScorer(name, model), tokenizer or find_tokenizer(model.name_or_path), model.config)
    if callable(getattr(model, "logits", None)):
        return Opened(LoadedScorer(str(getattr(model, "path", type(model).__name__)), model), tokenizer)
    checkpoint = open_checkpoint(
        model, **sources, on_progress=on_progress, quantized=True, side_files=side_file_names()
    )
    checkpoint = adapt_dtype(checkpoint, device)
    if checkpoint.quantization is not None:
        scorer = OpenedScorer(checkpoint.name, lambda: _loaded_quantized(checkpoint, device))
        receipt = receipt_of(checkpoint)
        notes = (*checkpoint.notes, *receipt.notes)
        known = _known(None, receipt.value)
        return Opened(scorer, checkpoint.tokenizer, checkpoint.config, notes=notes, **known)
    if checkpoint.format == "gguf" and runs_gguf and is_installed("llama_cpp"):
        note = f"{checkpoint.name} was run by llama.cpp, which rounds the inputs of products to 8 bits"
        scorer = OpenedScorer(checkpoint.name, lambda: Noted(LlamaCppModel(checkpoint.name)))
        return Opened(scorer, checkpoint.tokenizer, checkpoint.config, notes=(*checkpoint.notes, note))
    if checkpoint.format == "gguf" and runs_gguf:
        note = f"{checkpoint.name} was expanded and run by transformers, since llama-cpp-python is not installed"
        checkpoint = checkpoint.with_notes(note)
    checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    if block_list(checkpoint.skeleton) is None:
        scorer = OpenedScorer(checkpoint.name, lambda: _whole(checkpoint, device))
    else:
        scorer = StreamedScorer(checkpoint, device)
    return Opened(scorer, checkpoint.tokenizer, checkpoint.config, checkpoint, notes=checkpoint.notes)


def _known(calibration: CalibrationReport | None, receipt: Receipt | None) -> dict[str, Any]:
    """What the receipt that a model was saved with, or its own report, tells of its text and its weights."""
    found = calibration or (receipt.calibration if receipt else None)
    fingerprint = receipt.weights_fingerprint if receipt else None
    return {"passages": found.sketch if found else (), "weights_fingerprint": fingerprint}


def cut_windows(
    text: Any, opened: Opened, *, options: Mapping[str, Any], token: str | None, device: str, on_progress: OnProgress
) -> Windows:
    """The text in windows, as the model that is opened reads it; "self" is written by it."""
    config = opened.config.get_text_config() if opened.config is not None else None
    if isinstance(text, str) and text == "self":
        return _written(opened, options, device, on_progress)
    return load_windows(
        text,
        opened.tokenizer,
        **options,
        max_seq_len=getattr(config, "max_position_embeddings", None),
        vocab_size=getattr(config, "vocab_size", None),
        token=token,
        on_progress=on_progress,
    )


def _written(opened: Opened, options: Mapping[str, Any], device: str, on_progress: OnProgress) -> Windows:
    seq_len = options["seq_len"]
    with _in_memory(opened, device, on_progress) as model, quiet_layers():
        if model is None:
            raise ConfigError("text='self' is written by a model of transformers: give another text")
        written = self_calibration(
            model,
            opened.tokenizer,
            num_samples=options["num_tokens"] // seq_len,
            seq_len=seq_len,
            # Not the seed of text to calibrate on.
            seed=1,
            phase="evaluate",
            on_progress=on_progress,
        )
    return written_windows(written.tokens, written.notes)


@contextmanager
def _in_memory(opened: Opened, device: str, on_progress: OnProgress) -> Iterator[PreTrainedModel | None]:
    """The whole model, where it is one of transformers."""
    if opened.checkpoint is not None:
        yield _whole(opened.checkpoint, device).value
    else:
        with opened.scorer.open(torch.empty(0, 0, dtype=torch.int64), on_progress) as predictor:
            yield predictor.model


def check_overlap(windows: Windows, opened: Opened) -> Windows:
    """The windows, with a note where a few of their passages stand in the text that the model was calibrated on.

    Raises:
        ConfigError: more than a few do.
    """
    common, share = overlap(sketch(windows.tokens), opened.passages)
    if common >= _PASSAGES and share > _OVERLAP:
        raise ConfigError(
            f"{windows.name} holds text that the model was calibrated on ({100 * share:.0f} % of the smaller of both), "
            "which would look better than it is: give another text"
        )
    if not common:
        return windows
    note = f"{100 * share:.1f} % of {windows.name}, or of the text that the model was calibrated on, stands in both"
    return replace(windows, notes=(*windows.notes, note))


def with_origin(report: QualityReport, model: Opened, base: Checkpoint | None, device: str) -> QualityReport:
    """The report with what tells whose figures it holds, and where they were measured."""
    return replace(
        report,
        hardware=hardware(device),
        weights_fingerprint=model.weights_fingerprint,
        base_commit_hash=base.commit_hash if base else None,
    )


def with_speed(report: QualityReport, predictor: Predictor, windows: Windows, on_progress: OnProgress) -> QualityReport:
    """The report with the speed of a model that is in memory; with a note where it is not."""
    if predictor.model is None:
        note = "speed was not measured, since the model was not whole in memory"
        return replace(report, notes=(*report.notes, note))
    prompt = windows.tokens[0, :_PROMPT]
    with measure_peak() as meter:
        speed = measure_generation(
            predictor.model, prompt, new_tokens=_NEW_TOKENS, num_runs=_RUNS, on_progress=on_progress
        )
    return replace(report, speed=replace(speed, peak=meter.report))


def measure_noise_floor(windows: Windows, reference: Opened, device: str, on_progress: OnProgress) -> QualityReport:
    """What rounding alone does, on the first windows: the base in its own type against the base in float32."""
    assert reference.checkpoint is not None
    few = replace(windows, tokens=windows.tokens[:_NOISE_WINDOWS], first=windows.first[:_NOISE_WINDOWS])
    exact = StreamedScorer(reference.checkpoint, device, torch.float32)
    with (
        exact.open(few.tokens, on_progress) as expected,
        StreamedScorer(reference.checkpoint, device).open(few.tokens, on_progress) as predictor,
    ):
        return measure_quality(few, predictor, expected, on_progress)


def with_noise_floor(report: QualityReport, floor: QualityReport) -> QualityReport:
    """The report with what `measure_noise_floor` found."""
    note = f"noise floor on the first {floor.num_windows} windows"
    return replace(
        report,
        noise_floor=floor.kl_divergence,
        noise_floor_se=floor.kl_divergence_se,
        notes=(*report.notes, note),
    )


def _loaded_quantized(checkpoint: Checkpoint, device: str) -> Noted[PreTrainedModel]:
    quantized = load_quantized(checkpoint, device)
    return Noted(quantized.model, quantized.report.notes)


def _whole(checkpoint: Checkpoint, device: str) -> Noted[PreTrainedModel]:
    check_room_to_load(checkpoint, device)
    return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)
