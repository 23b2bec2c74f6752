"""One form of a model in a comparison: made or read, measured against its base, spoken to, and let go of."""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qtoolkit.errors import CheckpointError, ConfigError, JobCancelled, QToolkitError, oneline
from qtoolkit.evaluation import Predictor, continue_text, measure_quality
from qtoolkit.files import absolute, path_of
from qtoolkit.formats import quiet_layers
from qtoolkit.jobs.evaluating import (
    Opened,
    check_overlap,
    measure_noise_floor,
    open_model,
    with_noise_floor,
    with_origin,
    with_speed,
)
from qtoolkit.jobs.loading import load_model
from qtoolkit.jobs.quantizing import run_quantization
from qtoolkit.measure import disk_size, explained, memory_footprint
from qtoolkit.measure.malloc import give_memory_back
from qtoolkit.methods import MethodConfig, as_call, available_methods, get_method, resolve_config
from qtoolkit.models import Checkpoint, open_checkpoint
from qtoolkit.optional import optional
from qtoolkit.planning import memory_to_use, plan_job
from qtoolkit.quantized import QuantizedModel
from qtoolkit.records import FULL_PRECISION, Compared, OnProgress, QualityReport, ignore_progress
from qtoolkit.requests import QuantizeRequest
from qtoolkit.texts.windows import Windows
from qtoolkit.units import bits_per_weight


@dataclass(frozen=True)
class Form:
    """What a model is compared as.

    Attributes:
        label: as the user would write it.
        config: how the model is quantized; None for what is read from `path`.
        path: a checkpoint's folder or a `.gguf` file; None, where there is no config either, for the model itself.
    """

    label: str
    config: MethodConfig | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Task:
    """What all forms of a comparison share. It goes to other processes as it is, and so holds no token.

    Attributes:
        model: a Hub id, a folder, a `.gguf` file, or a loaded model.
        revision: the commit of a Hub id.
        identity: the commit, or a fingerprint of the weights: another process must find the same model.
        tokenizer: the one that the user gave; None for the model's own.
        windows: the text.
        prompts: what each form is asked to continue.
        device: as the user gave it, since each process has its own.
        noise_floor: whether to measure what rounding alone does.
    """

    model: Any
    revision: str | None
    identity: str
    tokenizer: Any = field(repr=False)
    windows: Windows
    prompts: tuple[str, ...]
    device: str
    noise_floor: bool


@dataclass(frozen=True)
class Base:
    """The model in full precision, whose blocks have read the text already.

    Attributes:
        checkpoint: the model, its weights not read.
        tokenizer: its tokenizer.
        predictor: its predictions.
        floor: what rounding alone does; None where nobody asked.
    """

    checkpoint: Checkpoint
    tokenizer: Any
    predictor: Predictor
    floor: QualityReport | None


def read_forms(configs: Any) -> tuple[Form, ...]:
    """What the user wants to compare.

    Args:
        configs: of each form a config, a method's name, transformers' own config, None for the model as it is, or the
            folder of a checkpoint or a `.gguf` file.

    Raises:
        ConfigError: nothing, something else, or the same twice.
    """
    if isinstance(configs, str | os.PathLike | Mapping) or not isinstance(configs, Sequence) or not configs:
        names = ", ".join(map(repr, available_methods()))
        raise ConfigError(f"configs must be a list of configs and methods' names ({names}), got {configs!r:.60}")
    forms = tuple(_form(config) for config in configs)
    labels = [form.label for form in forms]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"configs has {twice} {labels.count(twice)} times: leave all but one out")
    return forms


def _form(config: Any) -> Form:
    if config is None:
        return Form(FULL_PRECISION)
    if isinstance(config, os.PathLike):
        return Form(os.fspath(config), path=path_of(config, "configs"))
    if isinstance(config, str) and config and config not in available_methods():
        path = absolute(config)
        # os.path, since Path raises on a name that no file can have.
        if os.path.isdir(path) or path.suffix.lower() == ".gguf":  # noqa: PTH112
            return Form(config, path=path)
    resolved = resolve_config(config)
    return Form(as_call(resolved), resolved)


def check_form(form: Form, checkpoint: Checkpoint, device: str, *, here: bool) -> str:
    """Refuse, before any work, a form that cannot come to be.

    Args:
        form: what is wanted.
        checkpoint: the model, headers read.
        device: where it would live.
        here: whether this process does the work, so that it needs the method's packages.

    Returns:
        A fingerprint of the weights that the form is read from; empty where it is made from the model.

    Raises:
        QToolkitError: as `qtoolkit.plan` and `qtoolkit.load`.
    """
    if form.config is not None:
        method = get_method(form.config.method)
        for package in method.requires if here else ():
            optional(package, f"method {method.name!r}")
        plan_job(replace(checkpoint, notes=[]), form.config, device, None, rss=0)
        return ""
    if form.path is None:
        return ""
    options: dict[str, Any] = {"revision": None, "token": None, "tokenizer": None, "headers_only": True}
    return open_checkpoint(form.path, **options, on_progress=ignore_progress, quantized=True).fingerprint()


def identity_of(checkpoint: Checkpoint) -> str:
    """The commit of a Hub model, otherwise a fingerprint of the weights."""
    return checkpoint.commit_hash or checkpoint.fingerprint()


@contextmanager
def open_base(
    task: Task, opened: Opened, checkpoint: Checkpoint, *, device: str, on_progress: OnProgress
) -> Iterator[Base]:
    """The base's pass over the text, made once and held for all forms.

    Args:
        task: what is compared.
        opened: the base as an evaluation meets it.
        checkpoint: the base as a method meets it.
        device: where it runs.
        on_progress: told of each block.

    Raises:
        CheckpointError: it is another model than the one that the comparison began with.
    """
    if identity_of(checkpoint) != task.identity:
        raise CheckpointError(f"{checkpoint.name} has other weights here than where qt.compare was called: copy those")
    with opened.scorer.open(task.windows.tokens, on_progress) as predictor:
        floor = measure_noise_floor(task.windows, opened, device, on_progress) if task.noise_floor else None
        yield Base(checkpoint, opened.tokenizer, predictor, floor)


@explained("measuring it", "qt.plan tells what needs less")
def measure_form(
    form: Form, task: Task, base: Base, *, device: str, token: str | None, on_progress: OnProgress
) -> Compared:
    """Make or read a form, measure it, and let it go.

    Raises:
        QToolkitError: as `qtoolkit.quantize`, `qtoolkit.load` and `qtoolkit.evaluate`.
    """
    started = time.monotonic()
    opened, known = _open_form(form, task, base, device=device, token=token, on_progress=on_progress)
    windows = check_overlap(task.windows, opened)
    with opened.scorer.open(windows.tokens, on_progress) as predictor, quiet_layers():
        model = predictor.model
        # What is not whole in this process's memory lies in its file.
        footprint = memory_footprint(model) if model is not None else known.disk
        assert footprint is not None
        report = measure_quality(windows, predictor, base.predictor, on_progress)
        report = with_origin(report, opened, base.checkpoint, device)
        report = with_speed(report, predictor, windows, on_progress)
        answers = [continue_text(model, base.tokenizer, prompt) for prompt in task.prompts] if model is not None else []
    report = replace(report, notes=(*report.notes, *opened.notes))
    return replace(
        known,
        footprint=footprint,
        memory=memory_to_use(base.checkpoint, footprint, device),
        bits_per_weight=bits_per_weight(footprint, base.checkpoint.record().num_parameters),
        quality=with_noise_floor(report, base.floor) if base.floor else report,
        answers=tuple(answers),
        seconds=time.monotonic() - started,
    )


def _open_form(
    form: Form, task: Task, base: Base, *, device: str, token: str | None, on_progress: OnProgress
) -> tuple[Opened, Compared]:
    """A form ready to be measured, and what is known of it by then."""
    sources = {"revision": None, "token": token, "tokenizer": base.tokenizer}
    row = Compared(form.label, FULL_PRECISION, {}, device, disk=base.checkpoint.disk_size)
    if form.config is not None:
        made: Any = run_quantization(
            QuantizeRequest(
                task.model,
                form.config,
                device=device,
                revision=task.revision,
                token=token,
                tokenizer=base.tokenizer,
                resume=False,
                on_progress=on_progress,
            )
        )
    elif form.path is not None and form.path.is_file():
        row = replace(row, method="gguf", disk=disk_size(form.path))
        return open_model(form.path, device=device, sources=sources, on_progress=on_progress, runs_gguf=True), row
    elif form.path is not None:
        made = load_model(form.path, device=device, dtype="auto", revision=None, token=token, tokenizer=base.tokenizer)
        row = replace(row, disk=disk_size(form.path))
    elif isinstance(task.model, str | os.PathLike):
        made = load_model(
            task.model, device=device, dtype="auto", revision=task.revision, token=token, tokenizer=base.tokenizer
        )
    else:
        made = task.model
    if isinstance(made, QuantizedModel):
        report = made.report
        disk = report.memory.disk_after or report.memory.predicted_disk_after
        row = replace(row, method=report.method, settings=report.settings, disk=disk)
    return open_model(made, device=device, sources=sources, on_progress=on_progress), row


def row_of(form: Form, device: str, measure: Callable[[], Compared]) -> Compared:
    """A form's row, whatever happens: with the error where it failed in a way that qtoolkit knows.

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
        return replace(failed(form, device, error), seconds=time.monotonic() - started)
    finally:
        give_memory_back()


def failed(form: Form, device: str, error: BaseException) -> Compared:
    """The row of a form that could not be measured."""
    method = form.config.method if form.config else FULL_PRECISION
    settings = form.config.to_dict() if form.config else {}
    return Compared(form.label, method, settings, device, error=f"{type(error).__name__}: {oneline(error)}")
