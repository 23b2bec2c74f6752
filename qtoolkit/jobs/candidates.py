"""Measure the candidates of a comparison: quantize or load each, measure it against the base, and free it."""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qtoolkit.errors import CheckpointError, ConfigError, JobCancelled, QToolkitError, oneline
from qtoolkit.evaluation.generation import continue_text
from qtoolkit.evaluation.scoring import Predictor
from qtoolkit.evaluation.token_losses import measure_quality
from qtoolkit.files import absolute, path_of, scratch_folder
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.checkpoint_loading import run_loading
from qtoolkit.jobs.checkpoint_opening import open_source
from qtoolkit.jobs.evaluating import (
    Opened,
    check_overlap,
    measure_noise_floor,
    open_model,
    with_noise_floor,
    with_origin,
    with_speed,
)
from qtoolkit.jobs.quantizing import run_quantization
from qtoolkit.measure.disk import disk_size
from qtoolkit.measure.footprint import memory_footprint
from qtoolkit.measure.guard import explained
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig, as_call, available_methods, get_method, resolve_config
from qtoolkit.models.checkpoint import Checkpoint
from qtoolkit.optional import optional
from qtoolkit.planning.phases import memory_to_use
from qtoolkit.planning.planner import plan_job
from qtoolkit.quantized import QuantizedModel
from qtoolkit.quantized_file import QuantizedFile
from qtoolkit.records import FULL_PRECISION, Compared, OnProgress, QualityReport
from qtoolkit.requests import LoadRequest, ModelSource, QuantizeRequest
from qtoolkit.texts.windows import Windows
from qtoolkit.units import bits_per_weight


@dataclass(frozen=True)
class Candidate:
    """One way to have a model, which becomes a row of a comparison.

    Attributes:
        label: as the user would write it.
        config: how the model is quantized; None for what is read from `path`.
        path: a checkpoint's folder or a `.gguf` file; None, without a config either, for the model itself.
    """

    label: str
    config: MethodConfig | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Task:
    """Hold what all candidates of a comparison share. It is sent to other processes, and so holds no token.

    Attributes:
        model: a Hub id, a folder, a `.gguf` file, or a loaded model.
        revision: the commit of a Hub id.
        identity: the commit, or a fingerprint of the weights: another process must find the same model.
        tokenizer: the one that the user gave; None for the model's own.
        windows: the text.
        prompts: texts that each candidate continues.
        device: as the user gave it, since each process has its own.
        noise_floor: whether to measure what rounding alone does.
        speed: whether to measure how fast each candidate reads and writes.
    """

    model: Any
    revision: str | None
    identity: str
    tokenizer: Any = field(repr=False)
    windows: Windows
    prompts: tuple[str, ...]
    device: str
    noise_floor: bool
    speed: bool


@dataclass(frozen=True)
class Base:
    """Hold the model in full precision, whose blocks have computed the text, and how candidates are measured.

    Attributes:
        task: what all candidates share.
        checkpoint: the model, its weights not read.
        source: its tokenizer, and the token with which candidates are read.
        predictor: its predictions.
        floor: what rounding alone does; None if it was not requested.
        device: where candidates run.
        on_progress: called while they are made and measured.
    """

    task: Task
    checkpoint: Checkpoint
    source: ModelSource
    predictor: Predictor
    floor: QualityReport | None
    device: str
    on_progress: OnProgress


def read_candidates(configs: Any) -> tuple[Candidate, ...]:
    """Read the list of configs and paths that a comparison is given.

    Args:
        configs: for each candidate a config, a method's name, transformers' own config, None for the model as it is, or
            the folder of a checkpoint or a `.gguf` file.

    Raises:
        ConfigError: nothing, something else, or the same twice.
    """
    if isinstance(configs, str | os.PathLike | Mapping) or not isinstance(configs, Sequence) or not configs:
        names = ", ".join(map(repr, available_methods()))
        raise ConfigError(f"configs must be a list of configs and methods' names ({names}), got {configs!r:.60}")
    candidates = tuple(_read_candidate(config) for config in configs)
    labels = [candidate.label for candidate in candidates]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"configs has {twice} {labels.count(twice)} times: leave all but one out")
    return candidates


def _read_candidate(config: Any) -> Candidate:
    if config is None:
        return Candidate(FULL_PRECISION)
    if isinstance(config, os.PathLike):
        return Candidate(os.fspath(config), path=path_of(config, "configs"))
    if isinstance(config, str) and config and config not in available_methods():
        path = absolute(config)
        # os.path, since Path raises on a name that no file can have.
        if os.path.isdir(path) or path.suffix.lower() == ".gguf":  # noqa: PTH112
            return Candidate(config, path=path)
    resolved = resolve_config(config)
    return Candidate(as_call(resolved), resolved)


def check_candidate(candidate: Candidate, checkpoint: Checkpoint, device: str, *, local: bool) -> str:
    """Refuse, before any work, a candidate that cannot be made or read.

    Args:
        candidate: what is compared.
        checkpoint: the model, headers read.
        device: where it would run.
        local: whether this process does the work, so that it needs the method's packages.

    Returns:
        A fingerprint of the weights that the candidate is read from; empty if it is made from the model.

    Raises:
        QToolkitError: as `qtoolkit.plan` and `qtoolkit.load`.
    """
    if candidate.config is not None:
        method = get_method(candidate.config.method)
        for package in method.requires if local else ():
            optional(package, f"method {method.name!r}")
        plan_job(checkpoint, candidate.config, device, None, rss=0)
        return ""
    if candidate.path is None:
        return ""
    return open_source(candidate.path, ModelSource(), quantized=True, headers_only=True).fingerprint()


def identity_of(checkpoint: Checkpoint) -> str:
    """Return the commit of a Hub model, otherwise a fingerprint of the weights."""
    return checkpoint.commit_hash or checkpoint.fingerprint()


@contextmanager
def open_base(
    task: Task, opened: Opened, checkpoint: Checkpoint, *, device: str, token: str | None, on_progress: OnProgress
) -> Iterator[Base]:
    """Let the base compute the text, once for all candidates, and hold the result while entered.

    Args:
        task: what is compared.
        opened: the base, opened for evaluation.
        checkpoint: the base, opened for quantization.
        device: where it runs, and the candidates too.
        token: Hub token with which candidates are read; None for the one of this machine.
        on_progress: called after each block.

    Raises:
        CheckpointError: it is another model than the one that the comparison began with.
    """
    if identity_of(checkpoint) != task.identity:
        raise CheckpointError(f"{checkpoint.name} has other weights here than where the call was made: copy those")
    source = ModelSource(token=token, tokenizer=opened.tokenizer)
    with opened.scorer.open(task.windows.tokens, on_progress) as predictor:
        floor = None
        if task.noise_floor:
            floor = measure_noise_floor(task.windows, opened, predictor, device, on_progress)
        yield Base(task, checkpoint, source, predictor, floor, device, on_progress)


@explained("measuring it", "qt.plan tells what needs less")
def measure_candidate(candidate: Candidate, base: Base) -> Compared:
    """Quantize or load a candidate, measure it, and free it.

    Raises:
        QToolkitError: as `qtoolkit.quantize`, `qtoolkit.load` and `qtoolkit.evaluate`.
    """
    started = time.monotonic()
    opened, row = _open_candidate(candidate, base)
    windows = check_overlap(base.task.windows, opened)
    with opened.scorer.open(windows.tokens, base.on_progress) as predictor, quiet_layers():
        model = predictor.model
        # What is not in this process's memory as a whole is mapped from its file.
        footprint = row.footprint or (row.disk if model is None else memory_footprint(model))
        assert footprint is not None
        report = measure_quality(windows, predictor, base.predictor, base.on_progress)
        report = with_origin(report, opened, base.checkpoint, base.device)
        if base.task.speed:
            report = with_speed(report, predictor, windows, base.on_progress)
        prompts = () if model is None else base.task.prompts
        answers = tuple(continue_text(model, base.source.tokenizer, prompt) for prompt in prompts)
    notes = dict.fromkeys((*opened.notes, *predictor.notes))
    report = replace(report, notes=(*report.notes, *notes))
    return replace(
        row,
        footprint=footprint,
        memory=memory_to_use(base.checkpoint, footprint, base.device),
        bits_per_weight=bits_per_weight(footprint, base.checkpoint.record().num_parameters),
        quality=with_noise_floor(report, base.floor) if base.floor else report,
        answers=answers,
        seconds=time.monotonic() - started,
    )


def _open_candidate(candidate: Candidate, base: Base) -> tuple[Opened, Compared]:
    """Open a candidate for its evaluation, and return its row as far as it is known by then."""
    path = candidate.path
    source = base.source
    on_progress = base.on_progress
    row = Compared(candidate.label, FULL_PRECISION, {}, base.device, disk=base.checkpoint.disk_size)
    if path is not None:
        row = replace(row, disk=disk_size(path))
        if path.is_file():
            opened = open_model(path, source, device=base.device, on_progress=on_progress, runs_gguf=True)
            return opened, replace(row, method="gguf")
    model = path or base.task.model
    revision = None if path else base.task.revision
    if candidate.config is not None:
        request = QuantizeRequest(
            model,
            candidate.config,
            device=base.device,
            revision=revision,
            token=source.token,
            tokenizer=source.tokenizer,
            on_progress=on_progress,
        )
        model = _quantize(request)
    elif isinstance(model, str | os.PathLike):
        model = run_loading(
            LoadRequest(model, device=base.device, revision=revision, token=source.token, tokenizer=source.tokenizer)
        )
    if isinstance(model, QuantizedModel):
        report = model.report
        disk = report.memory.disk_after or report.memory.predicted_disk_after
        # A file is mapped as it is stored by the programs that run it, and expanded here.
        footprint = report.memory.footprint_after if isinstance(model, QuantizedFile) else None
        row = replace(row, method=report.method, settings=report.settings, disk=disk, footprint=footprint)
    return open_model(model, source, device=base.device, on_progress=on_progress), row


def _quantize(request: QuantizeRequest) -> QuantizedModel:
    """Quantize a model in memory; one that is written as a file is opened, and the file removed."""
    assert isinstance(request.config, MethodConfig)
    if not get_method(request.config.method).writes_file:
        return run_quantization(request)
    with scratch_folder("qtoolkit-file-") as scratch:
        result = run_quantization(replace(request, output=scratch / "result"))
        assert result.model is not None  # it is read now
        return result


def measure_row(candidate: Candidate, task: Task, measure: Callable[[], Compared]) -> Compared:
    """Measure a candidate and return its row; an error that qtoolkit knows becomes the row's error.

    Raises:
        JobCancelled: somebody stopped the job.
    """
    started = time.monotonic()
    try:
        return measure()
    except JobCancelled:
        raise
    except QToolkitError as error:
        # Its frames hold the half-made model.
        traceback.clear_frames(error.__traceback__)
        return replace(failed_row(candidate, task, error), seconds=time.monotonic() - started)
    finally:
        give_memory_back()


def failed_row(candidate: Candidate, task: Task, error: BaseException) -> Compared:
    """Return the row of a candidate that could not be measured."""
    method = candidate.config.method if candidate.config else FULL_PRECISION
    settings = candidate.config.to_dict() if candidate.config else {}
    return Compared(candidate.label, method, settings, task.device, error=f"{type(error).__name__}: {oneline(error)}")
