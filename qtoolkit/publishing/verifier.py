"""Verify a saved model: check its files here, and what it does in a process that has nothing of this one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.model_class import TEXT_CLASS, auto_class_of
from qtoolkit.errors import QToolkitError, oneline, printable
from qtoolkit.formats import FileFormat
from qtoolkit.measure.guard import explained
from qtoolkit.publishing import behaviour_checks, contract_check, file_checks, origin_checks, run_cache, safety_checks
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.publishing.base_folder import base_name, find_base
from qtoolkit.publishing.process import NoAnswerError, NoMemoryError, run_behaviour
from qtoolkit.publishing.program_checks import check_program
from qtoolkit.publishing.readers import check_other_readers, reader_of
from qtoolkit.records import Check, ProgressEvent, Verification
from qtoolkit.requests import PublishRequest, VerifyRequest

# What to do when memory runs out.
LOADED_AGAIN = "free some: the model is loaded once more, in a process of its own"
_Run = Callable[[dict[str, Any]], dict[str, Any]]


@explained("verifying", LOADED_AGAIN)
def verify(request: VerifyRequest) -> Verification:
    """Check a saved model, and run it anew, as `qtoolkit.verify` describes."""
    return make_checks(open_artifact(request.path), request, run_anew=True)


def make_checks(artifact: Artifact, options: VerifyRequest | PublishRequest, *, run_anew: bool) -> Verification:
    """Check a saved model: its files here, and what it does in a fresh process.

    Args:
        artifact: the folder.
        options: its base, and who is called with each check.
        run_anew: run the model in any case; otherwise what a process saw of it earlier in this session counts, as long
            as no file of the model, its base or the packages has changed since. Bytes are compared each time.
    """
    base = base_name(options.base)
    checks: list[Check] = []
    answer: dict[str, Any] = {}
    recalled = False

    def report(detail: str) -> None:
        options.report(ProgressEvent("verify", len(checks), 0, "checks", detail))

    def run(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal answer, recalled
        state = run_cache.state_of(request)
        known = None if run_anew else run_cache.recall(state)
        recalled = known is not None
        answer = known or run_behaviour(request, on_wait=lambda: report("the model runs in a fresh process"))
        run_cache.remember(state, answer)
        return answer

    for_ = options.for_ if isinstance(options, VerifyRequest) else None
    found = find_base(artifact.receipt, base)
    for check in all_checks(artifact, base, found, run, for_, license=options.license, run_failed=run_anew):
        checks.append(check)
        if options.on_check:
            options.on_check(check)
        report(check.name)
    return Verification(
        printable(artifact.path.name),
        tuple(checks),
        recalled,
        network_open=answer.get("network_open", ""),
        sockets_open=answer.get("sockets_open", ""),
    )


def all_checks(
    artifact: Artifact,
    base: str | None,
    base_folder: Path | None,
    run: _Run,
    for_: str | None = None,
    *,
    license: str | None = None,
    run_failed: bool = True,
) -> Iterator[Check]:
    """Yield every check, made when it is asked for, in characters that any screen shows.

    Args:
        artifact: the folder; it is not loaded where a check finds that this is not safe.
        base, base_folder: as for `check_base`.
        run: answers a request as `run_behaviour` does.
        for_: as for `check_readers`.
        license: as `given` of `check_license`.
        run_failed: whether a model is run though a check of its files failed, which only says more of it.
    """
    is_intact = False
    for check in _unescaped_checks(artifact, base, base_folder, run, for_, license, run_failed=run_failed):
        if check.name == "file hashes":
            is_intact = check.passed is True
        note = check.note.replace(file_checks.AGAIN, file_checks.ANEW) if is_intact else check.note
        yield replace(check, value=printable(check.value), note=printable(note))


def _unescaped_checks(
    artifact: Artifact,
    base: str | None,
    base_folder: Path | None,
    run: _Run,
    for_: str | None,
    license: str | None,
    *,
    run_failed: bool,
) -> Iterator[Check]:
    """Yield every check; what stands in files, as it is."""
    failed = []
    for check in check_files(artifact):
        yield check
        if check.passed is False and (check.name in _UNSAFE or not run_failed):
            failed.append(check.name)
    yield _made("licence", lambda: origin_checks.check_license(artifact, license))
    if base_folder is not None:
        try:
            folders.check_loadable(base_folder)
        except (OSError, QToolkitError) as error:
            yield _unread_base(oneline(error))
            base_folder = None
    yield _made("base model", lambda: origin_checks.check_base(artifact, base, base_folder))
    yield _made(contract_check.NAME, lambda: contract_check.check_readers(artifact, for_))
    if failed:
        yield _not_loaded("not tried", f"not loaded, since these checks failed: {', '.join(failed)}")
    else:
        yield from check_running(artifact, base_folder, run)


def _not_loaded(value: str, note: str) -> Check:
    """Return the check of a model that was not loaded, which says nothing against it."""
    return Check("loads in transformers", None, value, note)


def _unread_base(why: str) -> Check:
    """Return the check of a base that cannot be read, which says nothing against the model."""
    return Check("base", None, f"base could not be read: {why}", "not proven by it: download it again, or name another")


# A folder that fails one of these must not be given to anything that opens or runs it.
_UNSAFE = ("regular files", "safetensors", file_checks.FILE, "config", "no pickles", "no code")
_Checks = dict[str, Callable[[Artifact], Check]]
_OF_RECEIPT: _Checks = {
    "receipt": file_checks.check_receipt,
    "file hashes": file_checks.check_hashes,
}
_OF_SAFETENSORS: _Checks = {
    "safetensors": file_checks.check_headers,
    "index": file_checks.check_index,
}
_OF_ONE_FILE: _Checks = {file_checks.FILE: file_checks.check_file}
_OF_ALL_FILES: _Checks = {
    "dtypes and sizes": file_checks.check_dtypes,
    "config": file_checks.check_config,
    "quantization config": file_checks.check_quantization,
    "no pickles": safety_checks.check_pickles,
    "no code": safety_checks.check_code,
    "no secrets": safety_checks.check_secrets,
    "no local paths": safety_checks.check_paths,
    "no calibration text": safety_checks.check_calibration_text,
}


def check_files(artifact: Artifact) -> Iterator[Check]:
    """Yield the checks that need the files alone; nothing of the folder is run."""
    odd = file_checks.check_regular(artifact)
    if odd is not None:
        yield odd
    is_file = isinstance(artifact.format, FileFormat)
    for name, make in (_OF_RECEIPT | (_OF_ONE_FILE if is_file else _OF_SAFETENSORS) | _OF_ALL_FILES).items():
        yield _made(name, partial(make, artifact))


def _made(name: str, make: Callable[[], Check]) -> Check:
    """Make a check; return a failed one where a file goes away, or cannot be read, while it is made."""
    try:
        return make()
    except (OSError, RecursionError) as error:
        return Check(name, False, f"not possible: {oneline(error)}", "a file cannot be read, or has gone")


def check_running(artifact: Artifact, base_folder: Path | None, run: _Run) -> Iterator[Check]:
    """Yield the checks of what the model does, in a process of its own that has no token and asks no network.

    Args:
        artifact: the folder.
        base_folder: its base; None where that is not at hand.
        run: answers a request as `run_behaviour` does.
    """
    yield from _check_behaviour(artifact, base_folder, run)
    yield from check_other_readers(artifact)
    yield from check_program(artifact, run)


def _check_behaviour(artifact: Artifact, base_folder: Path | None, run: _Run) -> Iterator[Check]:
    """Yield the checks of a model that transformers loads in a fresh process."""
    reader = reader_of(artifact)
    if reader.missing:
        yield _not_loaded("not tried", f"needs {reader.missing}")
        return
    probe = artifact.receipt.probe if artifact.receipt else None
    request = {
        "folder": str(artifact.path),
        "base": str(base_folder) if base_folder else None,
        "with_qtoolkit": reader.with_qtoolkit,
        "auto_class": "" if isinstance(artifact.format, FileFormat) else auto_class_of(artifact.config) or TEXT_CLASS,
        "device": _device(probe.device if probe else "cpu"),
        "token_ids": list(probe.token_ids) if probe else [],
        "top_ids": [list(ids) for ids in probe.top_ids] if probe else [],
    }
    try:
        answer = run(request)
    except NoMemoryError as error:
        remedy = "this machine has too little memory free: close what takes it, or verify on a larger one"
        yield _not_loaded(f"not tried: {oneline(error)}", remedy)
        return
    except NoAnswerError as error:
        yield Check("loads in transformers", False, str(error))
        return
    base = answer["base"]
    if base and "error" in base:
        yield _unread_base(base["error"])
        base = None
    format_ = artifact.format
    note = format_.note_on_shapes(answer["shapes"]) if format_ and not reader.with_qtoolkit else ""
    yield behaviour_checks.check_loading(answer, reader.description, note)
    yield from behaviour_checks.check_outputs(answer, probe)
    yield from behaviour_checks.check_behaviour(artifact, answer, base)


def _device(measured_on: str) -> str:
    """Return the kind of device that logits were measured on, where it is here; otherwise the processor."""
    import torch

    return "cuda:0" if measured_on.startswith("cuda") and torch.cuda.is_available() else "cpu"
