"""A connection that breaks anywhere in a push: what was sent stays, the rest follows, and one commit holds it all."""

import hashlib
from pathlib import Path
from random import Random

import pytest
from huggingface_hub.utils._xet import abort_xet_session

from qtoolkit.errors import HubUnreachableError
from qtoolkit.publishing.push import Content
from tests.fake_hub.server import Fault, Request
from tests.fake_hub.writable import PART, WritableHub
from tests.fake_hub.writable_xet import WritableXetHub
from tests.publishing.pushing import REPO, _no_pauses, contents, files, pushed

pytestmark = pytest.mark.slow

__all__ = ["_no_pauses", "files"]
NUM_POINTS = 20


def cut_at(requests: list[Request], point: int, *, lasting: bool) -> Fault:
    """A fault at one of `NUM_POINTS` points, spread over the requests of a push: within their body, or after it."""
    random = Random(point)  # noqa: S311
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
        hub.shards.clear()
    return requests


def received_of(hub: WritableHub, content: bytes, start: int) -> int:
    """Bytes of a large file that the Hub received, from a request on."""
    names = {hashlib.sha256(content).hexdigest()}
    if isinstance(hub, WritableXetHub):
        names = {name for name, chunks in hub.xorbs.items() if b"".join(chunks) in content}
    paths = ("/storage/", "/v1/xorbs/default/")
    sent = [each for each in hub.requests[start:] if each.path.startswith(paths) and names & set(each.path.split("/"))]
    return sum(each.received for each in sent if each.method == "PUT" or "xorbs" in each.path)


def assert_whole(hub: WritableHub, files: dict[str, Content], commit: str | None) -> None:
    """One commit was made, it is the one told, and it holds every file; before it stood what a new repository has."""
    repository = hub.repositories[REPO]
    assert len(hub.commits) == 1
    assert repository.refs["main"] == commit
    assert [set(each) for each in repository.commits.values()] == [{".gitattributes"}, {".gitattributes", *files}]
    assert contents(files).items() <= repository.commits[repository.refs["main"]].items()


def new_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what hf_xet keeps in memory and on the disk."""
    monkeypatch.setenv("HF_HOME", str(folder))
    abort_xet_session()


@pytest.mark.parametrize("then", ["it comes back", "another machine"])
@pytest.mark.parametrize(
    ("any_writable_hub", "point"),
    [*(("lfs", point) for point in range(NUM_POINTS)), *(("xet", point) for point in range(0, NUM_POINTS, 3))],
    indirect=["any_writable_hub"],
)
def test_a_cut_push_is_completed(
    any_writable_hub: WritableHub,
    files: dict[str, Content],
    point: int,
    then: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = any_writable_hub
    large = [content for name, content in contents(files).items() if name.endswith(".safetensors")]
    pushed(files)
    fault = cut_at(emptied(hub), point, lasting=then == "another machine")
    new_machine(tmp_path / "first", monkeypatch)
    hub.faults.append(fault)
    if fault.lasting:
        with pytest.raises(HubUnreachableError, match=r"call again|run it again"):
            pushed(files)
        hub.faults.clear()
        new_machine(tmp_path / "second", monkeypatch)
    stored, start = set(hub.storage), len(hub.requests)
    commit, _ = pushed(files)
    assert fault.times == 0
    assert_whole(hub, files, commit)
    # A xorb is larger than its content by 8 bytes a chunk, and here a file fits into one.
    part = PART if type(hub) is WritableHub else max(map(len, large))
    for content in large:
        again = received_of(hub, content, start)
        if hashlib.sha256(content).hexdigest() in stored:
            assert again == 0
        else:
            # A new call begins a file anew; within a call only one of its parts is sent again.
            assert len(content) <= again <= 1.01 * (len(content) + (0 if fault.lasting else part))
