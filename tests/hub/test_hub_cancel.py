"""A download stops when it is told to, and the next one goes on with the files that are not whole."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qtoolkit.errors import JobCancelled
from qtoolkit.hub import transfer
from qtoolkit.hub.repository import fetch
from qtoolkit.records import ProgressEvent
from tests.fake_hub.fixture import environment
from tests.fake_hub.server import Fault, Hub
from tests.hub.hub_models import SHARDS, accept, ignore_progress, sharded

SIZE = 3_000_000
SLOW = Fault(r"/xorbs/|\.safetensors$", pause=0.02)

PROCESS = """
import sys
from qtoolkit.hub.repository import fetch

def watch(event):
    if event.detail == sys.argv[1]:
        print("under way", flush=True)

try:
    fetch("org/model", on_progress=watch, check=lambda folder: None)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("raised", [JobCancelled, KeyboardInterrupt, ZeroDivisionError])
def test_what_on_progress_raises_stops_it(
    any_hub: Hub,
    tmp_path: Path,
    raised: type[BaseException],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine needs longer to end a transfer.
    monkeypatch.setattr(transfer, "_PATIENCE", 120.0)
    any_hub.add("org/model", sharded(SIZE))
    any_hub.faults = [SLOW]
    last: list[ProgressEvent] = []

    def stop_in_the_second(event: ProgressEvent) -> None:
        last[:] = [event]
        if event.detail == SHARDS[1] and event.done < event.total:
            raise raised("enough")

    with pytest.raises(raised, match="enough"):
        fetch("org/model", on_progress=stop_in_the_second, check=accept)
    assert last[0].detail == SHARDS[1]
    assert [thread.name for thread in threading.enumerate() if thread.name == "qtoolkit-transfer"] == []
    assert list((tmp_path / "hub").rglob("*.incomplete")) == []
    assert capfd.readouterr() == ("", "")
    _goes_on(any_hub)


HEED_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
def test_ctrl_c_stops_it(any_hub: Hub, tmp_path: Path) -> None:
    any_hub.add("org/model", sharded(SIZE))
    any_hub.faults = [SLOW]
    process = subprocess.Popen(
        # A shell that starts a job in the background has it ignore SIGINT, and so all that the job starts.
        [sys.executable, "-c", HEED_SIGINT + PROCESS, SHARDS[1]],
        env=os.environ | environment(any_hub, tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().splitlines()[-1] == "stopped"
    assert process.returncode == 0
    assert list((tmp_path / "hub").rglob("*.incomplete")) == []
    _goes_on(any_hub)


def test_a_connection_that_hangs_can_be_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PATIENCE", 0.0)
    hub.add("org/model", sharded(SIZE))
    hub.faults = [Fault(SHARDS[0], pause=60)]
    reports: list[ProgressEvent] = []

    def stop_the_third_time(event: ProgressEvent) -> None:
        reports.append(event)
        if [report.detail for report in reports].count(SHARDS[0]) == 3:
            raise JobCancelled

    with pytest.raises(JobCancelled):
        fetch("org/model", on_progress=stop_the_third_time, check=accept)
    assert len({report.done for report in reports[-3:]}) == 1
    hub.closing.set()
    for thread in threading.enumerate():
        if thread.name == "qtoolkit-transfer":
            thread.join()


def _goes_on(hub: Hub) -> None:
    """The first shard, which was whole, is not asked for again."""
    hub.faults = []
    hub.requests.clear()
    folder = fetch("org/model", on_progress=ignore_progress, check=accept).folder
    assert hub.downloads("HEAD") == [SHARDS[1]]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == sharded(SIZE)
