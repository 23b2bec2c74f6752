"""Run one evaluation: open models, cut the text, and let base and model predict it one after the other."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from qtoolkit.checkpoints.layer_values import largest
from qtoolkit.errors import ConfigError
from qtoolkit.evaluation.generation import measure_generation
from qtoolkit.evaluation.llama_cpp import LlamaCppModel
from qtoolkit.evaluation.scoring import LoadedScorer, OpenedScorer, Predictor, Scorer, StreamedScorer
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_loading import check_room_to_load, load_quantized
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.measure.guard import explained, guarded
from qtoolkit.measure.host import hardware
from qtoolkit.measure.peak import measure_peak
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.models.structure import block_list
from qtoolkit.models.tokenizer import find_tokenizer
from qtoolkit.noted import Noted
from qtoolkit.optional import is_installed
from qtoolkit.planning.device import adapt_dtype, resolve_device
from qtoolkit.publishing import receipt_of
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import CalibrationReport, OnProgress, QualityReport, Receipt, ignore_progress
from qtoolkit.requests import EvaluateRequest, ModelSource, TextOptions
from qtoolkit.stream.loading import load_streamed
from qtoolkit.texts.overlap import overlap, sketch
from qtoolkit.texts.self_calibration import self_calibration
from qtoolkit.texts.texts import check_texts, is_self
from qtoolkit.texts.windows import Windows, load_windows, written_windows

# A text with as many passages in common, and that share of them, is refused; fewer are quotations.
_PASSAGES = 3
_OVERLAP = 0.05
# Windows that the noise floor is measured on: it needs few, and float32 is slow.
NOISE_WINDOWS = 8
# Tokens that are read and written to measure speed, and how often.
_PROMPT = 128
_NEW_TOKENS = 32
_RUNS = 3


@dataclass(frozen=True)
class Opened:
    """A model that is open for an evaluation, and what is known of it.

    Attributes:
        scorer: predicts tokens.
        tokenizer: its tokenizer; None if none is known.
        config: transformers' config; None for an object that has `logits` only.
        checkpoint: the model in full precision, not read yet; None if it is loaded or quantized.
        passages: hashes of the text that it was calibrated on, as `sketch` returns them; empty if none is known.
        notes: what was decided while it was opened, one line each; its predictor has those of loading.
        weights_fingerprint: the one in its receipt; None without a receipt.
    """

    scorer: Scorer
    tokenizer: Any
    config: Any = None
    checkpoint: Checkpoint | None = None
    passages: tuple[int, ...] = ()
    notes: Sequence[str] = ()
    weights_fingerprint: str | None = None


LESS = "give fewer num_tokens, or a smaller seq_len"


@explained("the evaluation", LESS)
def run_evaluation(request: EvaluateRequest) -> QualityReport:
    """Measure a model, as `qtoolkit.evaluate` describes: what is named is opened, and predicts one after the other."""
    started = time.monotonic()
    device = resolve_device(request.device)
    on_progress = guarded(request.report, "the evaluation", LESS)
    candidate, reference, windows = open_evaluation(request, device=device, on_progress=on_progress)
    with reference.scorer.open(windows.tokens, on_progress) if reference else nullcontext() as expected:
        with candidate.scorer.open(windows.tokens, on_progress) as predictor, quiet_layers():
            report = measure_quality(windows, predictor, expected, on_progress)
            report = with_origin(report, candidate, reference.checkpoint if reference else None, device)
            if request.speed:
                report = with_speed(report, predictor, windows, on_progress)
        if request.noise_floor:
            assert reference is not None
            assert expected is not None
            floor = measure_noise_floor(windows, reference, expected, device, on_progress)
            report = with_noise_floor(report, floor)
    of_reference = (*reference.notes, *expected.notes) if reference and expected else ()
    notes = (*of_reference, *candidate.notes, *predictor.notes)
    return replace(report, seconds=time.monotonic() - started, notes=(*report.notes, *dict.fromkeys(notes)))


def open_evaluation(
    request: EvaluateRequest, *, device: str, on_progress: OnProgress
) -> tuple[Opened, Opened | None, Windows]:
    """Open the model and the base of a request, None without one, and cut its text.

    Args:
        request: what is measured.
        device: "cpu" or "cuda:0".
        on_progress: called while files are downloaded, and while a text is read or written.

    Raises:
        QToolkitError: as `qtoolkit.evaluate`.
    """
    check_texts(request.text, "text")
    candidate = open_model(request.model, request, device=device, on_progress=on_progress, runs_gguf=True)
    reference = None
    if request.base is not None:
        # The revision is the model's.
        source = ModelSource(token=request.token, tokenizer=request.tokenizer)
        reference = open_model(request.base, source, device=device, on_progress=on_progress, is_base=True)
    if request.noise_floor and (reference is None or reference.checkpoint is None):
        raise ConfigError("noise_floor=True needs a base in full precision: name its folder or Hub id as base=")
    windows = cut_windows(request, reference or candidate, device=device, on_progress=on_progress)
    return candidate, reference, check_overlap(windows, candidate)


def open_model(
    model: Any,
    source: ModelSource,
    *,
    device: str,
    on_progress: OnProgress,
    runs_gguf: bool = False,
    is_base: bool = False,
) -> Opened:
    """Open a model; one that is named is not read yet.

    Args:
        model: what `qtoolkit.evaluate` takes.
        source: the revision, the token and the tokenizer.
        device: "cpu" or "cuda:0".
        on_progress: called while files are downloaded.
        runs_gguf: let llama.cpp run a `.gguf` file if it is installed, as the file's users do; otherwise it is expanded
            to full precision.
        is_base: others are compared with it: FP8 and floats of 4 bits are expanded, block by block, as in a job.

    Raises:
        QToolkitError: as `qtoolkit.load`.
    """
    if isinstance(model, QuantizedModel):
        opened = Opened(LoadedScorer(model.name, model.model), source.tokenizer or model.tokenizer, model.model.config)
        return _with_receipt(opened, model.report.calibration, model.receipt)
    if isinstance(model, PreTrainedModel):
        name = model.name_or_path or type(model).__name__
        tokenizer = source.tokenizer or find_tokenizer(model.name_or_path)
        return Opened(LoadedScorer(name, model), tokenizer, model.config)
    if callable(getattr(model, "logits", None)):
        return Opened(LoadedScorer(str(getattr(model, "path", type(model).__name__)), model), source.tokenizer)
    checkpoint = open_source(model, source, on_progress=on_progress, quantized=True, expands=is_base)
    return _open_checkpoint(adapt_dtype(checkpoint, device), device, runs_gguf=runs_gguf)


def _open_checkpoint(checkpoint: Checkpoint, device: str, *, runs_gguf: bool) -> Opened:
    """Choose how a checkpoint predicts: loaded as a whole, by llama.cpp, or streamed block by block."""
    name = checkpoint.name
    opened = Opened(StreamedScorer(checkpoint, device), checkpoint.tokenizer, checkpoint.config, notes=checkpoint.notes)
    if checkpoint.quantization is not None:
        receipt = receipt_of(checkpoint)
        scorer = OpenedScorer(name, lambda: _load_quantized(checkpoint, device))
        opened = replace(opened, scorer=scorer, notes=(*checkpoint.notes, *receipt.notes))
        return _with_receipt(opened, None, receipt.value)
    if checkpoint.format == "gguf" and runs_gguf:
        if is_installed("llama_cpp"):
            assert checkpoint.path is not None
            path = checkpoint.path
            # The other notes tell how transformers reads it.
            note = f"{path.name} was run by llama.cpp, which rounds the inputs of products to 8 bits"
            return replace(opened, scorer=OpenedScorer(name, lambda: Noted(LlamaCppModel(path))), notes=(note,))
        note = f"{name} was expanded and run by transformers, since llama-cpp-python is not installed"
        checkpoint = checkpoint.with_notes(note)
    checkpoint = checkpoint.with_notes(*checkpoint.skeleton_notes)
    if block_list(checkpoint.skeleton) is None:
        opened = replace(opened, scorer=OpenedScorer(name, lambda: _load_whole(checkpoint, device)))
    return replace(opened, checkpoint=checkpoint, notes=checkpoint.notes)


def _with_receipt(opened: Opened, calibration: CalibrationReport | None, receipt: Receipt | None) -> Opened:
    """Add the text that a model was calibrated on, by its own report or its receipt, and its fingerprint."""
    calibration = calibration or (receipt.calibration if receipt else None)
    return replace(
        opened,
        passages=calibration.sketch if calibration else (),
        weights_fingerprint=receipt.weights_fingerprint if receipt else None,
    )


def cut_windows(request: TextOptions, opened: Opened, *, device: str, on_progress: OnProgress) -> Windows:
    """Cut a text into windows with the tokenizer of a model; "self" is written by that model."""
    if is_self(request.text):
        return _write_text(request, opened, device, on_progress)
    config = opened.config.get_text_config() if opened.config is not None else None
    return load_windows(
        request.text,
        opened.tokenizer,
        seq_len=request.seq_len,
        num_tokens=request.num_tokens,
        stride=request.stride,
        max_seq_len=largest(config, "max_position_embeddings"),
        vocab_size=largest(config, "vocab_size"),
        token=request.token,
        on_progress=on_progress,
    )


def _write_text(request: TextOptions, opened: Opened, device: str, on_progress: OnProgress) -> Windows:
    with _in_memory(opened, device, on_progress) as model, quiet_layers():
        if model is None:
            raise ConfigError("text='self' is written by a model of transformers: give another text")
        written = self_calibration(
            model,
            opened.tokenizer,
            num_samples=request.num_tokens // request.seq_len,
            seq_len=request.seq_len,
            # Not the seed of text to calibrate on.
            seed=1,
            phase="evaluate",
            on_progress=on_progress,
        )
    return written_windows(written.tokens, written.notes)


@contextmanager
def _in_memory(opened: Opened, device: str, on_progress: OnProgress) -> Iterator[PreTrainedModel | None]:
    """Load the whole model; None if transformers has no model of it."""
    if opened.checkpoint is not None:
        yield _load_whole(opened.checkpoint, device).value
    else:
        with opened.scorer.open(torch.empty(0, 0, dtype=torch.int64), on_progress) as predictor:
            yield predictor.model


def check_overlap(windows: Windows, opened: Opened) -> Windows:
    """Refuse windows of the text that a model was calibrated on; add a note if only a few passages are in both.

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
    """Add to a report which model and base were measured, and on which hardware."""
    return replace(
        report,
        hardware=hardware(device),
        weights_fingerprint=model.weights_fingerprint,
        base_commit_hash=base.commit_hash if base else None,
    )


def with_speed(report: QualityReport, predictor: Predictor, windows: Windows, on_progress: OnProgress) -> QualityReport:
    """Add the speed of a model that is in memory, or a note if it is not, to a report."""
    if predictor.model is None:
        note = "speed was not measured, since the model was not whole in memory"
        return replace(report, notes=(*report.notes, note))
    prompt = windows.tokens[0, :_PROMPT]
    with measure_peak() as meter:
        speed = measure_generation(
            predictor.model, prompt, new_tokens=_NEW_TOKENS, num_runs=_RUNS, on_progress=on_progress
        )
    return replace(report, speed=replace(speed, peak=meter.report))


def measure_noise_floor(
    windows: Windows, reference: Opened, rounded: Predictor, device: str, on_progress: OnProgress
) -> QualityReport:
    """Measure what rounding alone does, on the first windows: the base in its own type against float32.

    Args:
        windows: the text.
        reference: the base.
        rounded: predicts the windows with it, in its own type.
        device: where it runs.
        on_progress: called after each block and each window.
    """
    assert reference.checkpoint is not None
    few = windows.part(0, NOISE_WINDOWS)
    exact = StreamedScorer(reference.checkpoint, device, torch.float32)
    with exact.open(few.tokens, on_progress) as expected:
        return measure_quality(few, rounded, expected, on_progress)


def with_noise_floor(report: QualityReport, floor: QualityReport) -> QualityReport:
    """Add the result of `measure_noise_floor` to a report."""
    note = f"noise floor on the first {floor.num_windows} windows"
    return replace(
        report,
        noise_floor=floor.kl_divergence,
        noise_floor_se=floor.kl_divergence_se,
        notes=(*report.notes, note),
    )


def _load_quantized(checkpoint: Checkpoint, device: str) -> Noted[PreTrainedModel]:
    quantized = load_quantized(checkpoint, device)
    return Noted(quantized.model, quantized.report.notes)


def _load_whole(checkpoint: Checkpoint, device: str) -> Noted[PreTrainedModel]:
    check_room_to_load(checkpoint, device)
    return load_streamed(checkpoint, None, device=device, on_progress=ignore_progress)
