"""A saved model verified: its bytes here, what it does in a process that knows nothing of this one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qtoolkit.checkpoints import folder as folders
from qtoolkit.checkpoints.names import is_commit_hash, is_hub_id
from qtoolkit.errors import ModelNotFoundError, QToolkitError, oneline, printable
from qtoolkit.files import absolute, path_of
from qtoolkit.formats import Format, format_of
from qtoolkit.hub.cache import cached_commit, snapshot_folder
from qtoolkit.hub.repository import parse_name
from qtoolkit.measure import explained
from qtoolkit.partial import put_back
from qtoolkit.publishing import behaviour_checks, file_checks, origin_checks, run_cache, safety_checks
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.publishing.listing import list_folder
from qtoolkit.publishing.process import NoMemoryError, run_behaviour
from qtoolkit.records import Check, ProgressEvent, Verification
from qtoolkit.requests import PublishRequest, VerifyRequest

# What to do when memory runs out.
LOADED_AGAIN = "free some: the model is loaded once more, in a process of its own"
_Run = Callable[[dict[str, Any]], tuple[dict[str, Any] | None, str]]


@explained("verifying", LOADED_AGAIN)
def verify(request: VerifyRequest) -> Verification:
    """Check a saved model, and run it anew, as `qtoolkit.verify` describes."""
    return make_checks(request, run_anew=True)


def make_checks(request: VerifyRequest | PublishRequest, *, run_anew: bool) -> Verification:
    """Check a saved model: its files here, and what it does in a fresh process.

    Args:
        request: the folder, its base, and who is told.
        run_anew: run the model; otherwise what a process of this session saw of it counts, as long as no file of the
            model, its base or the packages has changed since. Bytes are compared each time.
    """
    artifact = open_artifact(request.path)
    named = None if request.base is None else _name_of(request.base)
    base_folder = _find_base(artifact, named)
    checks: list[Check] = []

    def report(doing: str) -> None:
        request.report(ProgressEvent("verify", len(checks), 0, "checks", doing))

    recalled, still_open = False, {"network_open": "", "sockets_open": ""}

    def run(behaviour: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        nonlocal recalled, still_open
        state = run_cache.state_of(behaviour)
        answer, problem = None if run_anew else run_cache.recall(state), ""
        recalled = answer is not None
        if answer is None:
            answer, problem = run_behaviour(behaviour, on_wait=lambda: report("the model runs in a fresh process"))
            if answer is not None:
                run_cache.remember(state, answer)
        still_open = {name: answer.get(name, "") if answer else "" for name in still_open}
        return answer, problem

    for check in _checks(artifact, named, base_folder, run):
        checks.append(check)
        if request.on_check:
            request.on_check(check)
        report(check.name)
    return Verification(printable(artifact.path.name), tuple(checks), recalled, **still_open)


def _checks(artifact: Artifact, named: str | None, base_folder: Path | None, run: _Run) -> Iterator[Check]:
    """Every check, made when it is asked for, as it can be shown; what is not safe is not loaded."""
    intact = False
    for check in _make_all(artifact, named, base_folder, run):
        if check.name == "file hashes":
            intact = check.passed is True
        note = check.note.replace(file_checks.AGAIN, file_checks.ANEW) if intact else check.note
        yield replace(check, value=printable(check.value), note=printable(note))


def _make_all(artifact: Artifact, named: str | None, base_folder: Path | None, run: _Run) -> Iterator[Check]:
    unsafe = []
    for check in check_files(artifact):
        yield check
        if check.passed is False and check.name in _UNSAFE:
            unsafe.append(check.name)
    yield _made("licence", lambda: origin_checks.check_license(artifact))
    unread = _check_base_config(base_folder)
    if unread is not None:
        yield unread
        base_folder = None
    yield _made("base model", lambda: origin_checks.check_base(artifact, named, base_folder))
    if unsafe:
        yield Check("loads in transformers", None, "not tried", f"not loaded: {' and '.join(unsafe)} failed")
    else:
        yield from check_running(artifact, base_folder, run)


def _check_base_config(folder: Path | None) -> Check | None:
    """What is wrong with the base's config, so that it is not opened; None where nothing is."""
    if folder is None:
        return None
    try:
        folders.check_loadable(folder)
    except (OSError, QToolkitError) as error:
        return _unread_base(oneline(error))
    return None


def _unread_base(why: str) -> Check:
    """A row on a base that cannot be read, which says nothing of the model."""
    return Check("base", None, f"base could not be read: {why}", "not proven by it: download it again, or name another")


# What fails of these must not be given to anything that opens or runs it.
_UNSAFE = ("regular files", "safetensors", "config", "no pickles", "no code")
_FILE_CHECKS: dict[str, Callable[[Artifact], Check]] = {
    "receipt": file_checks.check_receipt,
    "file hashes": file_checks.check_hashes,
    "safetensors": file_checks.check_headers,
    "index": file_checks.check_index,
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
    """The checks that need the files alone; nothing of the folder is run."""
    odd = file_checks.check_regular(artifact)
    if odd is not None:
        yield odd
    for name, make in _FILE_CHECKS.items():
        yield _made(name, partial(make, artifact))


def _made(name: str, make: Callable[[], Check]) -> Check:
    """A check; one that fails where a file goes away, or cannot be read, while it is looked at."""
    try:
        return make()
    except (OSError, RecursionError) as error:
        return Check(name, False, f"not possible: {oneline(error)}", "a file cannot be read, or has gone")


def check_running(artifact: Artifact, base_folder: Path | None, run: _Run) -> list[Check]:
    """The checks of what the model does, in a process of its own that has no token and asks no network.

    Args:
        artifact: the folder.
        base_folder: its base; None where that is not at hand.
        run: answers a request as `run_behaviour` does.
    """
    reader, missing = _reader(artifact)
    if missing:
        return [Check("loads in transformers", None, "not tried", f"needs {missing}"), *_other_readers(artifact)]
    probe = artifact.receipt.probe if artifact.receipt else None
    request = {
        "folder": str(artifact.path),
        "base": str(base_folder) if base_folder else None,
        "with_qtoolkit": reader == WITH_QTOOLKIT,
        "device": _device(probe.device if probe else "cpu"),
        "token_ids": list(probe.token_ids) if probe else [],
        "top_ids": [list(ids) for ids in probe.top_ids] if probe else [],
    }
    try:
        answer, problem = run(request)
    except NoMemoryError as error:
        told = "this machine has too little memory free: close what takes it, or verify on a larger one"
        return [Check("loads in transformers", None, f"not tried: {oneline(error)}", told), *_other_readers(artifact)]
    if answer is None:
        return [Check("loads in transformers", False, problem), *_other_readers(artifact)]
    base = answer["base"]
    unread = _unread_base(base["error"]) if base and "error" in base else None
    return [
        *([unread] if unread else []),
        behaviour_checks.check_loading(answer, reader),
        behaviour_checks.check_logits(answer, probe),
        behaviour_checks.check_perplexity(answer, probe),
        *behaviour_checks.check_behaviour(artifact, answer, None if unread else base),
        *_other_readers(artifact),
    ]


WITHOUT_QTOOLKIT = "without qtoolkit"
WITH_QTOOLKIT = "once qtoolkit is imported"


def _reader(artifact: Artifact) -> tuple[str, str]:
    """With or without what help transformers reads a folder, and the packages that it lacks here."""
    found = _format(artifact)
    if found is None:
        return WITHOUT_QTOOLKIT, ""
    missing = found.missing_packages()
    if found.packages is None or (found.reads_itself and missing):
        return WITH_QTOOLKIT, ""
    if found.reads_itself:
        return f"through {' and '.join(found.packages)}", ""
    return WITHOUT_QTOOLKIT, ", ".join(missing)


def _other_readers(artifact: Artifact) -> list[Check]:
    """What else reads such a folder, and is not installed here."""
    found = _format(artifact)
    if found is None or not found.reads_itself or not found.missing_packages():
        return []
    *rest, reader = found.packages or ("",)
    absent = " and ".join((reader, *rest))
    return [Check(f"loads in {reader}", None, "not tried", f"{absent} are not installed here")]


def _format(artifact: Artifact) -> Format | None:
    values = artifact.config.get("quantization_config")
    return format_of(values if isinstance(values, dict) else None)


def _device(wanted: str) -> str:
    """The kind of device that logits were measured on, where it is here; otherwise the processor."""
    import torch

    return "cuda:0" if wanted.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _name_of(base: Any) -> str:
    """What a person calls a base, as text.

    Raises:
        ModelNotFoundError: it is no text and no path.
    """
    named = os.fspath(base) if isinstance(base, os.PathLike) else base
    if not isinstance(named, str):
        raise ModelNotFoundError(f"base={base!r:.60} is no name: give a folder or a Hub id as text")
    return named


def _find_base(artifact: Artifact, base: str | None) -> Path | None:
    """The base's folder on this machine; the network is not asked.

    Raises:
        ModelNotFoundError: a base was named, and is not here, or holds what must not be opened.
    """
    if base is not None:
        folder = _named_base(base)
        for name, what in list_folder(folder).odd.items():
            raise ModelNotFoundError(f"base={base!r}: {printable(name)} {what}: put the file itself in its place")
        return folder
    source = artifact.receipt.source if artifact.receipt else None
    # A receipt may say anything; a commit is part of the name of a folder.
    if source is None or not is_commit_hash(source.commit_hash):
        return None
    folder = snapshot_folder(source.name, source.commit_hash or "")
    return folder if folder.is_dir() and not list_folder(folder).odd else None


def _named_base(base: str) -> Path:
    """The folder of a base that a person named.

    Raises:
        ModelNotFoundError: it is neither a folder nor in the local Hub cache.
    """
    # A Hub id is no path that a removed current folder matters to.
    folder = absolute(base) if is_hub_id(base.partition("@")[0]) else path_of(base, "base")
    # os.path, since Path raises on a name that is too long.
    if os.path.isdir(folder):  # noqa: PTH112
        put_back(folder)
        return folder
    repo_id, revision = parse_name(base, None)
    commit_hash = cached_commit(repo_id, revision)
    cached = snapshot_folder(repo_id, commit_hash) if commit_hash else None
    if cached is None or not cached.is_dir():
        raise ModelNotFoundError(
            f"base={base!r} is no folder and not in the local Hub cache: download it, `hf download {repo_id}`"
        )
    return cached
