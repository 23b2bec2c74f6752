"""How much was sent is told while a file goes, and what is raised then stops the push at once."""

import re
import threading
import time

import pytest

from qtoolkit.errors import JobCancelled
from qtoolkit.publishing.push import Content
from qtoolkit.records import ProgressEvent
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.publishing.pushing import REPO, _no_pauses, contents, files, pushed

__all__ = ["_no_pauses", "files"]
LARGE = "/storage/|/v1/xorbs/"


def test_bytes_are_told_within_a_file_and_after_each(
    any_writable_hub: WritableHub, files: dict[str, Content], request: pytest.FixtureRequest
) -> None:
    any_writable_hub.faults.append(Fault(LARGE, pause=0.03))
    events: list[ProgressEvent] = []
    pushed(files, events.append)
    sizes = {name: len(content) for name, content in contents(files).items()}
    assert list(dict.fromkeys(event.detail for event in events)) == list(files)
    assert {(event.phase, event.unit, event.total) for event in events} == {("push", "bytes", sum(sizes.values()))}
    done = [event.done for event in events]
    assert done == sorted(done) and done[-1] == events[-1].total
    start = 0
    for name, size in sizes.items():
        last = [event.done for event in events if event.detail == name][-1]
        assert last == start + size
        start += size
    first = [event.done for event in events if event.detail == next(iter(files))]
    assert len(first) > 2
    # hf_xet's own progress does not come through huggingface_hub: a file counts when it is whole.
    assert any(0 < count < first[-1] for count in first) == (request.node.callspec.id == "lfs")


def test_bytes_that_are_sent_again_are_not_counted_twice(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.faults += [Fault("/storage/.*/2", received=100_000, times=1), Fault("/storage/", pause=0.03)]
    events: list[ProgressEvent] = []
    pushed(files, events.append)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total


def test_it_is_stopped_within_a_file_and_goes_on_later(
    any_writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    any_writable_hub.faults.append(Fault(LARGE, pause=0.2))
    start = time.monotonic()

    def cancel(event: ProgressEvent) -> None:
        raise JobCancelled(f"stopped at {event.done}")

    with pytest.raises(JobCancelled, match="stopped at"):
        pushed(files, cancel)
    assert time.monotonic() - start < 10
    assert any_writable_hub.commits == []
    received = sum(request.received for request in any_writable_hub.requests if re.search(LARGE, request.path))
    assert received < len(contents(files)[next(iter(files))])
    any_writable_hub.faults.clear()
    any_writable_hub.closing.set()
    commit, _ = pushed(files)
    assert any_writable_hub.repositories[REPO].refs["main"] == commit
    assert len(any_writable_hub.commits) == 1
    assert [thread for thread in threading.enumerate() if thread.name == "qtoolkit-transfer"] == []


def test_it_is_stopped_while_it_waits_for_the_hub(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.faults.append(Fault("/commit/", status=429, headers={"Retry-After": "200"}))
    whole: list[ProgressEvent] = []

    def cancel(event: ProgressEvent) -> None:
        if event.done == event.total:
            whole.append(event)
        if len(whole) == 2:
            raise JobCancelled("stopped")

    start = time.monotonic()
    with pytest.raises(JobCancelled, match="stopped"):
        pushed(files, cancel)
    assert time.monotonic() - start < 10


def test_an_error_of_ones_own_progress_is_not_taken_for_one_of_the_hub(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    def fail(event: ProgressEvent) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        pushed(files, fail)
