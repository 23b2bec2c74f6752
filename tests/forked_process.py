"""The process of a verification, forked from one that has imported what it imports: that takes four seconds each time.

`python forked_process.py` forks a process for each line that it reads: JSON with `arguments`, as behind Python on a
command line, `root`, `environment`, `folder`, `errors` and `status`. It answers with the number of that process, and
`status` becomes a file with the code by which it ended. Nothing of qtoolkit is imported before that.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import IO, Any, Self

# What a verification imports of other packages.
OTHERS = (
    *("torch", "bitsandbytes", "accelerate", "transformers.generation", "transformers.models.llama.modeling_llama"),
    *("transformers.models.auto.tokenization_auto", "transformers.models.auto.modeling_auto"),
)
# torch sets them once that is imported which compiles, in the forked process too.
SET_BY_TORCH = ("TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK")


class ForkedProcess:
    """As much of `subprocess.Popen` as a verification needs."""

    def __init__(self, pid: int, status: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def wait(self, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while not self._status.exists():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.01)
        self.returncode = int(self._status.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.wait()


class ForkServer:
    """The process that others are forked from, started when the first is asked for.

    Args:
        root: where a process with qtoolkit finds it.
        environment: the variables that it has.
        with_qtoolkit: those of a process that shall find qtoolkit; they may differ in PYTHONPATH alone.
        place: an empty folder.
    """

    def __init__(
        self, root: Path, environment: Mapping[str, str], with_qtoolkit: Mapping[str, str], place: Path
    ) -> None:
        path = {"PYTHONPATH": with_qtoolkit["PYTHONPATH"]}
        assert with_qtoolkit == {**environment, **path}
        self._root, self._environment, self._with_qtoolkit, self._place = root, environment, with_qtoolkit, place
        self._server: subprocess.Popen[str] | None = None
        self._count = 0

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr: IO[bytes], **rest: Any
    ) -> Any:
        """As `subprocess.Popen`: by it, where the variables are others than those that all was imported with."""
        variables = {name: value for name, value in env.items() if name not in SET_BY_TORCH}
        if variables not in (self._environment, self._with_qtoolkit):
            return subprocess.Popen(command, env=env, cwd=cwd, stderr=stderr, **rest)
        python, isolated, *arguments = command
        assert (python, isolated) == (sys.executable, "-P") and rest.pop("start_new_session")
        assert rest == {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        self._count += 1
        asked = {
            "arguments": arguments,
            "root": str(self._root) if variables == self._with_qtoolkit else "",
            "environment": dict(env),
            "folder": str(cwd),
            "errors": stderr.name,
            "status": str(self._place / str(self._count)),
        }
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-P", __file__],
                env=self._environment,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(f"{json.dumps(asked)}\n")
        self._server.stdin.flush()
        return ForkedProcess(int(self._server.stdout.readline()), Path(asked["status"]))

    def stop(self) -> None:
        if self._server is not None:
            self._server.communicate()


@contextmanager
def verifications_are_forked() -> Iterator[None]:
    """Let the processes of verifications be forked while entered, where the system has that."""
    from qtoolkit.publishing import process
    from qtoolkit.publishing.environment import model_environment

    if not hasattr(os, "fork"):
        yield
        return
    here = {name: value for name, value in os.environ.items() if name not in SET_BY_TORCH}
    alone, with_qtoolkit = (model_environment(here, with_qtoolkit=with_ours) for with_ours in (False, True))
    with TemporaryDirectory() as place:
        server = ForkServer(Path(process.__file__).parents[2], alone, with_qtoolkit, Path(place))
        process.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=server.start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
        )
        try:
            yield
        finally:
            process.subprocess = subprocess  # type: ignore[attr-defined]
            server.stop()


def next_asked() -> dict[str, Any]:
    """Read lines for ever; return what is asked in a process forked for it, whose parent waits for it alone."""
    for line in sys.stdin:
        if os.fork():
            continue
        asked: dict[str, Any] = json.loads(line)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if not pid:
            # It leads a group of its own before anybody who might end that group knows of it.
            os.setsid()
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            return asked
        _, status = os.waitpid(pid, 0)
        part = Path(f"{asked['status']}.part")
        part.write_text(str(os.waitstatus_to_exitcode(status)))
        part.replace(asked["status"])
        os._exit(0)
    sys.exit()


def become(asked: Mapping[str, Any]) -> None:
    """Make of this process what `subprocess.Popen` would have made, and run the file."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if asked["root"]:
        sys.path.insert(0, asked["root"])
    nothing, errors = os.open(os.devnull, os.O_RDWR), os.open(asked["errors"], os.O_WRONLY)
    for number, stream in enumerate((nothing, nothing, errors)):
        os.dup2(stream, number)
    file, report, _, *arguments = asked["arguments"]
    # The one that waits for this process is another than the one that asked for it.
    sys.argv = [file, report, str(os.getppid()), *arguments]
    runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    for name in OTHERS:
        importlib.import_module(name)
    assert "qtoolkit" not in sys.modules
    gc.collect()
    gc.freeze()
    # Who waits for a process has nobody that waits for it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    become(next_asked())
