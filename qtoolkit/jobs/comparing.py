"""A comparison, from its checks to its report: here, one form after the other, or on an executor."""

import os
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial
from typing import Any

from qtoolkit.errors import ConfigError
from qtoolkit.files import path_of
from qtoolkit.jobs.evaluating import Opened, cut_windows, open_model
from qtoolkit.jobs.forms import Form, Task, check_form, identity_of, measure_form, open_base, read_forms, row_of
from qtoolkit.jobs.keeping import KeptResults, key_of
from qtoolkit.jobs.quantizing import refuse_quantized
from qtoolkit.jobs.workers import run_on
from qtoolkit.measure import explained, guarded
from qtoolkit.models import Checkpoint, open_checkpoint
from qtoolkit.planning import resolve_device
from qtoolkit.records import Compared, Comparison, OnProgress, ProgressEvent, in_order
from qtoolkit.texts.windows import check_window_options
from qtoolkit.units import parse_bytes

_KEPT = "the same call goes on with the results that are kept"


@explained("the comparison", f"give fewer num_tokens; {_KEPT}")
def compare_models(
    model: Any,
    configs: Sequence[Any],
    *,
    text: Any,
    options: Mapping[str, Any],
    prompts: Sequence[str],
    memory: int | str | None,
    noise_floor: bool,
    executor: Executor | None,
    retries: int,
    output: str | os.PathLike[str] | None,
    resume: bool,
    device: str,
    sources: Mapping[str, Any],
    on_progress: OnProgress,
) -> Comparison:
    """Do what `qtoolkit.compare` tells: options are seq_len, num_tokens, stride; sources revision, token, tokenizer."""
    started = time.monotonic()
    check_window_options(text, **options)
    forms, limit = read_forms(configs), None if memory is None else parse_bytes(memory)
    _check(model, prompts=prompts, noise_floor=noise_floor, executor=executor, retries=retries)
    on_progress = guarded(on_progress, "the comparison", _KEPT)
    # Workers may have a GPU where this process has none: it only cuts the text then.
    place = resolve_device(device if executor is None else "auto")
    opened = open_model(model, device=place, sources=sources, on_progress=on_progress)
    checkpoint = opened.checkpoint or open_checkpoint(model, **sources, on_progress=on_progress)
    weights = [check_form(form, checkpoint, place, here=executor is None) for form in forms]
    kept = KeptResults(output)
    windows = cut_windows(text, opened, options=options, token=sources["token"], device=place, on_progress=on_progress)
    task = Task(
        model=_name(model, checkpoint),
        revision=checkpoint.commit_hash,
        identity=identity_of(checkpoint),
        tokenizer=sources["tokenizer"],
        windows=windows,
        prompts=tuple(prompts),
        device=place if executor is None else device,
        noise_floor=noise_floor,
    )
    keys = {form.label: key_of(form, own, task) for form, own in zip(forms, weights, strict=True)}
    results = kept.read(keys) if resume else {}
    missing = [form for form in forms if form.label not in results]

    def tell(label: str = "") -> None:
        on_progress(ProgressEvent("compare", len(results), len(forms), "configs", label))

    if executor is None:
        running = _run_here(task, missing, opened, checkpoint, token=sources["token"], on_progress=on_progress)
    else:
        running = run_on(executor, task, missing, retries=retries, on_wait=tell)
    with closing(running):
        for form, result in running:
            results[form.label] = result
            kept.write(keys[form.label], result)
            tell(form.label)
    speeds = () if executor is None else ("speed was measured on the workers, which may differ from one another",)
    return Comparison(
        source=checkpoint.record(),
        text=windows.name,
        text_fingerprint=windows.fingerprint,
        results=in_order(tuple(results.values())),
        prompts=tuple(prompts),
        memory_limit=limit,
        seconds=time.monotonic() - started,
        notes=(*windows.notes, *kept.notes(), *speeds),
    )


def _check(model: Any, *, prompts: Any, noise_floor: bool, executor: Any, retries: Any) -> None:
    """Refuse, before any work, what can be seen to be wrong.

    Raises:
        QToolkitError: it is.
    """
    refuse_quantized(model)
    named = isinstance(model, str | os.PathLike)
    if not isinstance(prompts, list | tuple) or not all(isinstance(prompt, str) and prompt for prompt in prompts):
        raise ConfigError(f"prompts must be a list of texts, got {prompts!r:.60}")
    if not isinstance(retries, int) or retries < 0:
        raise ConfigError(f"retries must be a whole number from 0 on, got {retries!r:.40}")
    if executor is not None and not isinstance(executor, Executor):
        raise ConfigError(
            f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}: "
            "of a Dask client give client.get_executor()"
        )
    if executor is not None and not named:
        raise ConfigError(
            f"executor= needs a model that workers can read: name its folder or Hub id, not a {type(model).__name__}"
        )
    if noise_floor and not named:
        raise ConfigError("noise_floor=True needs a model that is named: give its folder or Hub id")


def _name(model: Any, checkpoint: Checkpoint) -> Any:
    """The model as it is found from anywhere: without the revision, which is pinned, and with the whole path."""
    if not isinstance(model, str | os.PathLike):
        return model
    return checkpoint.name if checkpoint.commit_hash else str(path_of(model, "model"))


def _run_here(
    task: Task,
    forms: list[Form],
    opened: Opened,
    checkpoint: Checkpoint,
    *,
    token: str | None,
    on_progress: OnProgress,
) -> Generator[tuple[Form, Compared], None, None]:
    """Measure forms one after the other, with one pass of the base over the text for all."""
    if not forms:
        return
    with open_base(task, opened, checkpoint, device=task.device, on_progress=on_progress) as base:
        for form in forms:
            measure = partial(measure_form, form, task, base, device=task.device, token=token, on_progress=on_progress)
            yield form, row_of(form, task.device, measure)
