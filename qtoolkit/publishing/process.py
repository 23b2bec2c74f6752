"""A process that loads and runs a model, and knows nothing of this one: no secret, no network, an end to it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from qtoolkit.publishing import behaviour, launcher
from qtoolkit.publishing.environment import model_environment
from qtoolkit.publishing.listing import list_folder
from qtoolkit.units import format_bytes

# A large model is read and runs a few tokens in minutes; a process that hangs must end some day.
TIME_LIMIT = 3600.0
# Seconds between two reports while it runs.
_TICK = 0.1
# torch with CUDA, and a tokenizer; then weights as they are read, as they lie in memory, and as they are computed with.
_MEMORY, _MEMORY_PER_BYTE = 12_000_000_000, 6


class _EndedError(Exception):
    """The process is not waited for any longer; the message says why."""


def run_behaviour(
    request: dict[str, Any],
    time_limit: float = TIME_LIMIT,
    on_wait: Callable[[], None] = lambda: None,
    memory_limit: int | None = None,
) -> tuple[dict[str, Any] | None, str]:
    """Run `behaviour.py` in a fresh process; its answer, or None and why there is none.

    The answer has `network_open` too: why the process could reach a network, empty where it could not.

    Args:
        request: what `behaviour.main` reads.
        time_limit: seconds after which the process is ended.
        on_wait: called ten times a second while it runs; what it raises ends the process.
        memory_limit: bytes of main memory with which it is ended; None for more than a model of such files takes.
    """
    with TemporaryDirectory(prefix="qtoolkit-verify-") as scratch:
        asked, answered, reported = (Path(scratch, name) for name in ("request.json", "answer.json", "network"))
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P: the file's own folder must not be looked into for modules.
        files = (launcher.__file__, reported, behaviour.__file__, asked, answered)
        with subprocess.Popen(  # noqa: S603  # this Python, on a file of ours
            [sys.executable, "-P", *map(str, files)],
            env=model_environment(os.environ, with_qtoolkit=request["with_qtoolkit"]),
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                said = _wait(process, time_limit, memory_limit or _most_memory(request), on_wait)
            except _EndedError as error:
                return None, str(error)
            finally:
                # Leaves alone one that has ended.
                process.kill()
        if process.returncode or not answered.exists():
            lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            killed = "killed: memory may have run out" if process.returncode < 0 else lines[-1][:300]
            return None, f"the process ended with {process.returncode} ({killed})"
        answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        return answer | {"network_open": reported.read_text(encoding="utf-8")}, ""


def _most_memory(request: dict[str, Any]) -> int:
    """Main memory that no model of these files takes, in bytes: what takes more would take all there is."""
    folder = Path(request.get("folder", "."))
    return _MEMORY + _MEMORY_PER_BYTE * sum((folder / name).stat().st_size for name in list_folder(folder).names)


def _wait(
    process: "subprocess.Popen[bytes]", time_limit: float, memory_limit: int, on_wait: Callable[[], None]
) -> bytes:
    """What a process writes to stderr until it ends.

    Raises:
        _EndedError: it has not ended in time, or takes too much memory.
    """
    deadline = time.monotonic() + time_limit
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_TICK)[1]
        if time.monotonic() > deadline:
            raise _EndedError(f"not done after {time_limit:.0f} s")
        with contextlib.suppress(psutil.Error):
            # One that has just ended has none.
            if psutil.Process(process.pid).memory_info().rss > memory_limit:
                raise _EndedError(f"it took more than {format_bytes(memory_limit)} of memory, and was ended")
        on_wait()
