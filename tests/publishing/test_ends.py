"""Nothing of a verification outlives it, what failed is not loaded, and too little memory says nothing of a model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import qtoolkit as qt
from qtoolkit.publishing.process import NoAnswerError, NoMemoryError, run_behaviour
from tests.publishing.test_behaviour import request

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and groups of processes are POSIX's")


def at_start(place: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the process that runs a model run code at its start, and write numbers of processes into `place`."""
    text = f"import os, sys\nif any('behaviour.py' in one for one in sys.orig_argv):\n    {code}\n"
    (place / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(place))


def has_ended(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("changes", "failed"),
    [({"num_labels": 10**9}, "config"), ({"num_hidden_layers": 10**6}, "config")],
    ids=["labels", "layers"],
)
def test_what_a_check_refused_is_not_loaded(
    made: dict[str, Path], tmp_path: Path, run_here: list[str], changes: dict[str, object], failed: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made["absmax"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    checks = {check.name: check for check in qt.verify(folder).checks}
    assert checks[failed].passed is False
    assert checks["loads in transformers"].passed is None
    assert failed in checks["loads in transformers"].note
    assert run_here == []


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_AS, (700_000_000, -1))"
KILLED = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"


@pytest.mark.slow
@pytest.mark.parametrize("code", [LIMITED, KILLED], ids=["no address left", "ended by the kernel"])
def test_too_little_memory_is_no_failure(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    at_start(tmp_path, monkeypatch, code)
    verification = qt.verify(made["absmax"])
    (loading,) = (check for check in verification.checks if check.name == "loads in transformers")
    assert loading.passed is None, str(loading)
    assert loading.value.startswith("not tried")
    assert "memory" in loading.note


@pytest.mark.slow
def test_what_memory_ran_out_in_is_told(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_start(tmp_path, monkeypatch, KILLED)
    with pytest.raises(NoMemoryError, match="memory ran out"):
        run_behaviour(request(made["nf4"]))


@pytest.mark.slow
@pytest.mark.parametrize("then", ["", "; os._exit(3)"], ids=["while it runs", "after it died"])
def test_what_it_started_ends_with_it(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    started = tmp_path / "started"
    code = (
        f"import subprocess; one = subprocess.Popen(['sleep', '60']); open({str(started)!r}, 'w').write(str(one.pid))"
    )
    at_start(tmp_path, monkeypatch, code + then)
    # A pipe that such a process holds has no end.
    told = r"the process ended with 3 \(it said nothing\)" if then else "not done after 3 s"
    with pytest.raises(NoAnswerError, match=f"^{told}$"):
        run_behaviour(request(made["nf4"]), time_limit=3.0 if not then else 30.0)
    assert has_ended(int(started.read_text()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with its parent")
def test_it_ends_when_the_one_that_waits_is_killed(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    told = f"open({str(started)!r}, 'w').write(str(os.getpid()))"
    # A thread that lasts, so that the process does, when all else is done.
    lasting = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    code = f"{told}; {lasting}"
    at_start(tmp_path, monkeypatch, code)
    call = f"run_behaviour({request(made['nf4'])!r})"
    script = f"from qtoolkit.publishing.process import run_behaviour; {call}"
    here = str(Path(qt.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": f"{here}:{tmp_path}"}
    ) as waiting:
        while not (started.exists() and started.read_text()):
            assert waiting.poll() is None
            time.sleep(0.05)
        # Until it has said that it wants to end with the other.
        time.sleep(2)
        waiting.kill()
    assert has_ended(int(started.read_text()))
