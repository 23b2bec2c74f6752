"""Load and run a model in a process that has no secret, no network and nothing else of this one, and that ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from qtoolkit.files import scratch_folder
from qtoolkit.publishing import behaviour, launcher
from qtoolkit.publishing.environment import model_environment
from qtoolkit.publishing.listing import list_folder
from qtoolkit.units import format_bytes

# A large model is loaded and runs a few tokens in minutes; a process that hangs must be ended at some time.
TIME_LIMIT = 3600.0
# Seconds and further bytes for the base, of which only the tokenizer is read: that takes seconds and some 100 MB.
_BASE_TIME, _BASE_MEMORY = 120.0, 2_000_000_000
# Seconds between two reports while it runs.
_TICK = 0.1
# Bytes for torch with CUDA and a tokenizer; and for each byte of weights: read, in memory, and computed with.
_MEMORY, _MEMORY_PER_BYTE = 12_000_000_000, 6
# Bytes at the end of its stderr that are read.
_STDERR_BYTES = 10_000


class NoMemoryError(Exception):
    """This machine had too little memory for the process, which says nothing of the model."""


class NoAnswerError(Exception):
    """The process ended, or was ended, without an answer; the message says why."""


def run_behaviour(
    request: dict[str, Any],
    time_limit: float = TIME_LIMIT,
    on_wait: Callable[[], None] = lambda: None,
    memory_limit: int | None = None,
) -> dict[str, Any]:
    """Run `behaviour.py` in a fresh process, and return its answer.

    Args:
        request: what `behaviour.main` reads.
        time_limit: seconds after which the process is ended.
        on_wait: called ten times a second while it runs; what it raises ends the process.
        memory_limit: bytes of main memory with which it is ended; None for more than a model of such files takes.

    Returns:
        The answer, with `network_open` and `sockets_open`: why the process could reach a network, and sockets of this
        machine, empty where it could not. Of a base at which the process ended, or was ended, it has nothing but
        `error`. A process that has answered everything and then has to be ended has answered.

    Raises:
        NoAnswerError: there is no answer on the model.
        NoMemoryError: memory ran out, as the process says or as the kernel ended it.
    """
    with scratch_folder("qtoolkit-verify-") as scratch:
        names = ("request.json", "answer.json", "network", "stderr")
        request_file, answer_file, report, stderr_file = (scratch / name for name in names)
        request_file.write_text(json.dumps(request), encoding="utf-8")
        # -P: no modules are imported from the file's own folder.
        arguments = (launcher.__file__, report, os.getpid(), behaviour.__file__, request_file, answer_file)
        with (
            # A file, since a pipe stays open as long as any process that it started lives.
            stderr_file.open("wb") as stderr,
            subprocess.Popen(  # noqa: S603  # this Python, on a file of ours
                [sys.executable, "-P", *map(str, arguments)],
                env=model_environment(os.environ, with_qtoolkit=request["with_qtoolkit"]),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            ) as process,
        ):
            problem = ""
            try:
                _wait(process, time_limit, memory_limit or _most_memory(request), on_wait, answer_file)
                _wait(process, _BASE_TIME, _memory_of(process) + _BASE_MEMORY, on_wait)
            except NoAnswerError as error:
                problem = str(error)
            finally:
                _end(process)
        answer: dict[str, Any] = json.loads(answer_file.read_text(encoding="utf-8")) if answer_file.exists() else {}
        if answer.get("no_memory"):
            raise NoMemoryError(answer["no_memory"])
        if answer and request["base"] and answer["base"] is None:
            # Where memory ran out while the base was read, it is the base that took it.
            answer["base"] = {"error": problem or str(_why_ended(process.returncode, stderr_file))}
        elif not answer or (process.returncode and not problem):
            raise NoAnswerError(problem) if problem else _why_ended(process.returncode, stderr_file)
        still_open: dict[str, str] = json.loads(report.read_text(encoding="utf-8"))
        return answer | still_open


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started; leave alone what has ended."""
    if os.name == "nt":
        process.kill()
        return
    # It leads a group of its own, whose number nothing else gets as long as one of the group lives.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _why_ended(code: int, stderr: Path) -> NoAnswerError | NoMemoryError:
    """Return the error of a process that gave no answer, by its exit status and the last line that it wrote."""
    with stderr.open("rb") as stream:
        stream.seek(max(0, stderr.stat().st_size - _STDERR_BYTES))
        lines = stream.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    # The kernel did it: the caller knows of a process that qtoolkit ended, and why.
    if os.name != "nt" and code == -signal.SIGKILL:
        return NoMemoryError("the process was killed: memory ran out")
    last = lines[-1][:300]
    if last.startswith("MemoryError"):
        return NoMemoryError(last)
    return NoAnswerError(f"the process ended with {code} ({last})")


def _memory_of(process: "subprocess.Popen[bytes]") -> int:
    """Return the main memory of a process, in bytes; 0 for one that has just ended."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(process.pid).memory_info().rss)
    return 0


def _most_memory(request: dict[str, Any]) -> int:
    """Return main memory, in bytes, that no model of these files takes: what takes more would take all there is."""
    folder = Path(request.get("folder", "."))
    return _MEMORY + _MEMORY_PER_BYTE * sum((folder / name).stat().st_size for name in list_folder(folder).names)


def _wait(
    process: "subprocess.Popen[bytes]",
    time_limit: float,
    memory_limit: int,
    on_wait: Callable[[], None],
    until: Path | None = None,
) -> None:
    """Wait until a process ends, or a file is there.

    Raises:
        NoAnswerError: it has not ended in time, or takes too much memory.
    """
    deadline = time.monotonic() + time_limit
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_TICK)
            return
        if until is not None and until.exists():
            return
        if time.monotonic() > deadline:
            raise NoAnswerError(f"not done after {time_limit:.0f} s")
        if _memory_of(process) > memory_limit:
            raise NoAnswerError(f"it took more than {format_bytes(memory_limit)} of memory, and was ended")
        on_wait()
