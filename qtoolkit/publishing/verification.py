"""A saved model verified: its bytes here, what it does in a process that knows nothing of this one."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qtoolkit.errors import ModelNotFoundError
from qtoolkit.files import path_of
from qtoolkit.methods import config_of_checkpoint, get_method
from qtoolkit.optional import REQUIREMENTS, is_installed
from qtoolkit.publishing import behaviour, comparison, earlier, integrity, origin, safety
from qtoolkit.publishing.artifact import Artifact, open_artifact
from qtoolkit.records import Check, OnProgress, ProgressEvent, Verification, ignore_progress
from qtoolkit.source.hub import parse_name
from qtoolkit.source.hub_cache import cached_commit, snapshot_folder

OnCheck = Callable[[Check], None]
_Run = Callable[[dict[str, Any]], tuple[dict[str, Any] | None, str]]
# A large model is read and runs a few tokens in minutes; a process that hangs must end some day.
TIME_LIMIT = 3600.0
# Seconds between two reports while it runs.
_TICK = 0.1
# Nothing that a process needs to read a folder is called so.
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def verify(
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    on_check: OnCheck | None = None,
) -> Verification:
    """Prove that a saved model is what it says, and works elsewhere: check by check, each with what was seen.

    Files are looked at here, and nothing of the folder is run that is not safetensors. A fresh process, which has no
    token, no network and no qtoolkit unless the format needs it, then loads the folder with transformers: once more the
    memory of the model. Logits and perplexity are compared with those that the job measured and wrote into
    `qtoolkit.json`; tokenizer and generation config with the base's. What cannot be checked here is told as such.

    Args:
        path: a folder that `quantize` wrote, or any other with a model: without its `qtoolkit.json`, by what its files
            alone tell.
        base: the full-precision model to compare with, a folder or a Hub id in the local cache; None for the one that
            `qtoolkit.json` names, where it is in the cache.
        on_progress: called with a `ProgressEvent` after each check, and ten times a second while the model is loaded
            and run; stops by raising `JobCancelled`, which ends the process that runs it.
        on_check: called with each check the moment it is made; stops as `on_progress` does.

    Raises:
        ModelNotFoundError: there is no such folder, no model in it, or no such base on this machine.
    """
    return make_checks(path, base, on_progress, on_check, run_anew=True)


def make_checks(
    path: str | os.PathLike[str],
    base: str | os.PathLike[str] | None,
    on_progress: OnProgress | None,
    on_check: OnCheck | None,
    *,
    run_anew: bool,
) -> Verification:
    """As `verify`, which always runs the model anew; otherwise what a process saw of it earlier counts.

    That is as long as no file of the model, its base or the packages has changed since; bytes are compared each time.
    """
    artifact = open_artifact(path)
    base_folder = _find_base(artifact, base)
    named = None if base is None else os.fspath(base)
    checks: list[Check] = []

    def report(doing: str) -> None:
        (on_progress or ignore_progress)(ProgressEvent("verify", len(checks), 0, "checks", doing))

    recalled = False

    def run(request: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        nonlocal recalled
        state = earlier.state_of(request)
        known = None if run_anew else earlier.recall(state)
        if known is not None:
            recalled = True
            return known, ""
        answer, problem = run_behaviour(request, on_wait=lambda: report("the model runs in a fresh process"))
        if answer is not None:
            earlier.remember(state, answer)
        return answer, problem

    for check in _checks(artifact, named, base_folder, run):
        checks.append(check)
        if on_check:
            on_check(check)
        report(check.name)
    return Verification(artifact.path.name, tuple(checks), recalled)


def _checks(artifact: Artifact, named: str | None, base_folder: Path | None, run: _Run) -> Iterator[Check]:
    """Every check, made when it is asked for; what is not safe is not loaded."""
    unsafe = []
    for check in check_files(artifact):
        yield check
        if check.passed is False and check.name in ("no pickles", "no code"):
            unsafe.append(check.name)
    yield origin.check_license(artifact)
    yield origin.check_base(artifact, named, base_folder)
    if unsafe:
        yield Check("loads in transformers", None, "not tried", f"not loaded: {' and '.join(unsafe)} failed")
    else:
        yield from check_running(artifact, base_folder, run)


def check_files(artifact: Artifact) -> Iterator[Check]:
    """The checks that need the files alone; nothing of the folder is run."""
    for make in (
        *(integrity.check_receipt, integrity.check_hashes, integrity.check_headers, integrity.check_index),
        *(integrity.check_dtypes, integrity.check_config, integrity.check_quantization, safety.check_pickles),
        *(safety.check_code, safety.check_secrets, safety.check_paths, safety.check_calibration_text),
    ):
        yield make(artifact)


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
    answer, problem = run(request)
    if answer is None:
        return [Check("loads in transformers", False, problem), *_other_readers(artifact)]
    return [
        comparison.check_loading(answer, reader),
        comparison.check_logits(answer, probe),
        comparison.check_perplexity(answer, probe),
        *comparison.check_behaviour(artifact, answer, answer["base"]),
        *_other_readers(artifact),
    ]


def run_behaviour(
    request: dict[str, Any], time_limit: float = TIME_LIMIT, on_wait: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any] | None, str]:
    """Run `behaviour.py` in a fresh process; its answer, or None and why there is none.

    Args:
        request: what `behaviour.main` reads.
        time_limit: seconds after which the process is ended.
        on_wait: called ten times a second while it runs; what it raises ends the process.
    """
    with TemporaryDirectory(prefix="qtoolkit-verify-") as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P: the file's own folder must not be looked into for modules.
        command = [sys.executable, "-P", behaviour.__file__, str(asked), str(answered)]
        with subprocess.Popen(  # noqa: S603  # this Python, on a file of ours
            command,
            env=_environment(with_qtoolkit=request["with_qtoolkit"]),
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                said = _wait(process, time_limit, on_wait)
            except subprocess.TimeoutExpired:
                return None, f"not done after {time_limit:.0f} s"
            finally:
                # Leaves alone one that has ended.
                process.kill()
        if process.returncode or not answered.exists():
            lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            killed = "killed: memory may have run out" if process.returncode < 0 else lines[-1][:300]
            return None, f"the process ended with {process.returncode} ({killed})"
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        return answer, ""


def _wait(process: "subprocess.Popen[bytes]", time_limit: float, on_wait: Callable[[], None]) -> bytes:
    """What a process writes to stderr until it ends.

    Raises:
        subprocess.TimeoutExpired: it has not ended in time.
    """
    deadline = time.monotonic() + time_limit
    while True:
        try:
            return process.communicate(timeout=_TICK)[1]
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise
        on_wait()


WITHOUT_QTOOLKIT = "without qtoolkit"
WITH_QTOOLKIT = "once qtoolkit is imported"


def _reader(artifact: Artifact) -> tuple[str, str]:
    """With or without what help transformers reads a folder, and the packages that it lacks here."""
    if artifact.quant_method == "qtoolkit":
        return WITH_QTOOLKIT, ""
    if artifact.quant_method == "gptq":
        has_readers = is_installed("optimum") and is_installed("gptqmodel")
        return ("through optimum and gptqmodel" if has_readers else WITH_QTOOLKIT), ""
    if artifact.quant_method == "bitsandbytes":
        method = get_method(config_of_checkpoint(artifact.config["quantization_config"]).method)
        missing = [REQUIREMENTS[package] for package in method.requires if not is_installed(package)]
        return WITHOUT_QTOOLKIT, ", ".join(missing)
    return WITHOUT_QTOOLKIT, ""


def _other_readers(artifact: Artifact) -> list[Check]:
    """What else reads such a folder, and is not installed here."""
    if artifact.quant_method != "gptq" or (is_installed("optimum") and is_installed("gptqmodel")):
        return []
    return [Check("loads in gptqmodel", None, "not tried", "gptqmodel and optimum are not installed here")]


def _device(wanted: str) -> str:
    """The kind of device that logits were measured on, where it is here; otherwise the processor."""
    import torch

    return "cuda:0" if wanted.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _environment(*, with_qtoolkit: bool) -> dict[str, str]:
    """The environment without tokens and without a network; with the way to qtoolkit where that is needed."""
    kept = {name: value for name, value in os.environ.items() if not _SECRET_NAMES.search(name)}
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    # huggingface_hub reads the token from a file too.
    offline["HF_TOKEN_PATH"] = os.devnull
    if with_qtoolkit:
        place = str(Path(__file__).parents[2])
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (place, kept.get("PYTHONPATH"))))
    return kept | offline


def _find_base(artifact: Artifact, base: str | os.PathLike[str] | None) -> Path | None:
    """The base's folder on this machine; the network is not asked.

    Raises:
        ModelNotFoundError: a base was named, and is not here.
    """
    if base is not None and os.path.isdir(path_of(base, "base")):  # noqa: PTH112  # Path raises on a name too long
        return path_of(base, "base")
    source = artifact.receipt.source if artifact.receipt else None
    if base is not None:
        repo_id, revision = parse_name(os.fspath(base), None)
        commit_hash = cached_commit(repo_id, revision)
        folder = snapshot_folder(repo_id, commit_hash) if commit_hash else None
        if folder is None or not folder.is_dir():
            raise ModelNotFoundError(
                f"base={base!r} is no folder and not in the local Hub cache: download it, `hf download {repo_id}`"
            )
        return folder
    if source is None or source.commit_hash is None:
        return None
    folder = snapshot_folder(source.name, source.commit_hash)
    return folder if folder.is_dir() else None
