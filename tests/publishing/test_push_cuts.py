"""A connection that breaks anywhere in a push: what was sent stays, the rest follows, and one commit holds it all."""

import hashlib
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from qtoolkit.errors import HubUnreachableError
from qtoolkit.publishing.addition import Content
from tests.hub.fixture import any_writable_hub, writable_hub
from tests.hub.server import Fault, Request
from tests.hub.writable import WritableHub
from tests.hub.writable_xet import WritableXetHub
from tests.publishing.pushing import REPO, _no_pauses, contents, files, pushed

__all__ = ["_no_pauses", "any_writable_hub", "files", "writable_hub"]
NUM_POINTS = 20


def cut_at(requests: list[Request], point: int, *, lasting: bool) -> Fault:
    """A fault at one of `NUM_POINTS` points, spread over the requests of a push, somewhere in their body or after it."""
    random = Random(point)
    index = min(len(requests) - 1, int((point + random.random()) * len(requests) / NUM_POINTS))
    chosen = requests[index]
    spared = sum(request.path == chosen.path for request in requests[:index])
    received = random.choice([None, random.randrange(chosen.received + 1)])
    path = f"^{chosen.path}$"
    return Fault(path, received=received, unanswered=received is None, spared=spared, times=1, lasting=lasting)


def emptied(hub: WritableHub) -> list[Request]:
    """Make the Hub forget a push, and tell its requests."""
    requests = hub.requests.copy()
    for held in (hub.repositories, hub.storage, hub.parts, hub.commits, hub.requests, hub.faults):
        held.clear()
    if isinstance(hub, WritableXetHub):
        hub.xorbs.clear()
    return requests


def received_of_files(hub: WritableHub) -> Counter[str]:
    """Bytes that the Hub received, by the SHA-256 of the file."""
    total: Counter[str] = Counter()
    for request in hub.requests:
        if request.method == "PUT":
            total[request.path.split("/")[2]] += request.received
    return total


def assert_whole(hub: WritableHub, files: dict[str, Content], commit: str | None) -> None:
    """One commit was made, it is the one told, and it holds every file; before it stood what a new repository has."""
    repository = hub.repositories[REPO]
    assert len(hub.commits) == 1
    assert repository.refs["main"] == commit
    assert [set(each) for each in repository.commits.values()] == [{".gitattributes"}, {".gitattributes", *files}]
    assert contents(files).items() <= repository.commits[repository.refs["main"]].items()


@pytest.mark.parametrize("lasting", [False, True], ids=["it comes back", "another call"])
@pytest.mark.parametrize("point", range(NUM_POINTS))
def test_a_cut_push_is_completed(
    writable_hub: WritableHub, files: dict[str, Content], point: int, *, lasting: bool
) -> None:
    pushed(files)
    fault = cut_at(emptied(writable_hub), point, lasting=lasting)
    writable_hub.faults.append(fault)
    if lasting:
        with pytest.raises(HubUnreachableError):
            pushed(files)
        writable_hub.faults.clear()
    commit, _ = pushed(files)
    assert fault.times == 0
    assert_whole(writable_hub, files, commit)
    received = received_of_files(writable_hub)
    for name, content in contents(files).items():
        if name.endswith(".safetensors"):
            assert len(content) <= received[hashlib.sha256(content).hexdigest()] < 2 * len(content), name
