"""The way to the Hub: one commit or none, nothing sent twice, and on again after a lost connection."""

import hashlib
from pathlib import Path

import pytest

from qtoolkit.errors import ConfigError, HubUnreachableError, SourceError
from qtoolkit.publishing import push
from qtoolkit.publishing.addition import Content
from qtoolkit.publishing.push import Repository
from qtoolkit.publishing.token import Writer, find_writer
from qtoolkit.records import ProgressEvent
from tests.hub.fixture import WRITE_TOKEN
from tests.hub.server import Fault
from tests.hub.writable import WritableHub

REPO = "me/tiny"
WRITER = Writer(WRITE_TOKEN, "me")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "PAUSES", (0.0, 0.0))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Content]:
    folder = tmp_path / "model"
    folder.mkdir()
    contents = {"model.safetensors": bytes(range(256)) * 2000, "a.safetensors": b"a" * 1000, "config.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {**{name: folder / name for name in contents}, "README.md": b"# card\n"}


def pushed(files: dict[str, Content], events: list[ProgressEvent] | None = None) -> tuple[str, str | None]:
    """As `publish` does it, to a private repository."""
    repository = Repository(REPO, WRITER, "main", (events if events is not None else []).append)
    repository.open(private=True, create_pr=False)
    repository.refuse_leftovers(files)
    unchanged = repository.unchanged(files, {})
    return repository.push({n: c for n, c in files.items() if n not in unchanged}, "title", create_pr=False)


def contents(files: dict[str, Content]) -> dict[str, bytes]:
    return {name: content if isinstance(content, bytes) else content.read_bytes() for name, content in files.items()}


def sent(hub: WritableHub) -> list[str]:
    """Large files that were sent, by the beginning of their SHA-256."""
    puts = [request.path for request in hub.requests if request.method == "PUT" and request.status == 200]
    return [path.split("/")[2][:8] for path in puts]


def test_everything_comes_in_one_commit(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    events: list[ProgressEvent] = []
    commit, pull_request = pushed(files, events)
    repository = writable_hub.repositories[REPO]
    assert repository.private and repository.refs["main"] == commit and pull_request is None
    assert contents(files).items() <= repository.commits[commit].items()
    assert [title for _, title, _ in writable_hub.commits] == ["title"]
    assert [event.detail for event in events] == list(files)
    assert events[-1].done == events[-1].total == sum(map(len, contents(files).values()))


def test_what_is_there_is_not_sent_again(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    pushed(files)
    before = len(sent(writable_hub))
    files["config.json"] = b'{"new": 1}'
    pushed(files)
    assert len(sent(writable_hub)) == before
    assert writable_hub.commits[-1][2] == ["config.json"]


def test_after_a_lost_connection_it_goes_on(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.faults.append(Fault("/commit/", status=503))
    with pytest.raises(HubUnreachableError):
        pushed(files)
    before = sent(writable_hub)
    assert len(set(before)) == 2 and writable_hub.commits == []
    assert set(writable_hub.repositories[REPO].commits[writable_hub.repositories[REPO].refs["main"]]) == {
        ".gitattributes"
    }
    writable_hub.faults.clear()
    pushed(files)
    assert sent(writable_hub) == before
    assert len(writable_hub.commits) == 1


def test_a_hub_that_stumbles_is_asked_again(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.faults.append(Fault("/commit/", status=500, times=2))
    pushed(files)
    assert len(writable_hub.commits) == 1


def test_a_commit_in_between_is_not_overwritten(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    repository = Repository(
        REPO, WRITER, "main", lambda event: writable_hub.repositories[REPO].commit({"x": b"y"}) and None
    )
    repository.open(private=True, create_pr=False)
    with pytest.raises(SourceError, match="somebody committed to me/tiny meanwhile: look at it, then call again"):
        repository.push(files, "title", create_pr=False)
    assert writable_hub.commits == []


def test_a_pull_request_leaves_main_alone(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    made = writable_hub.add(REPO, {"config.json": b"old"})
    before = made.refs["main"]
    repository = Repository(REPO, WRITER, "main", lambda event: None)
    repository.open(private=True, create_pr=True)
    commit, pull_request = repository.push(files, "title", create_pr=True)
    assert pull_request == f"{writable_hub.url}/me/tiny/discussions/1"
    assert made.refs["main"] == before and made.refs["refs/pr/1"] == commit


def test_a_branch_of_its_own_is_made(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    made = writable_hub.add(REPO, {"config.json": b"old"}, private=True)
    before = made.refs["main"]
    repository = Repository(REPO, WRITER, "q4", lambda event: None)
    repository.open(private=True, create_pr=False)
    commit, _ = repository.push(files, "title", create_pr=False)
    assert (made.refs["main"], made.refs["q4"]) == (before, commit)


def test_weights_that_would_be_left_over_are_refused(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.add(REPO, {"model-00001-of-00002.safetensors": b"old"}, private=True)
    with pytest.raises(ConfigError, match=r"holds model-00001-of-00002\.safetensors, which this model has not"):
        pushed(files)


def test_a_public_repository_is_not_taken_for_a_private_one(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    writable_hub.add(REPO, {})
    with pytest.raises(ConfigError, match="me/tiny is public already: give private=False"):
        pushed(files)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_hashes_are_those_of_git_and_of_large_files(files: dict[str, Content], name: str) -> None:
    data = contents(files)[name]
    git = hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data, usedforsecurity=False).hexdigest()
    assert push._hashes(files[name], None) == {git, hashlib.sha256(data).hexdigest()}


def test_a_token_that_may_only_read_is_refused_before_any_work(writable_hub: WritableHub) -> None:
    reader = "hf_" + "r" * 34
    writable_hub.tokens.add(reader)
    with pytest.raises(PermissionError, match="may only read: make one that may write to me/tiny") as caught:
        find_writer(REPO, reader)
    assert reader not in str(caught.value)


def test_without_a_token_it_is_said_how_to_give_one(writable_hub: WritableHub) -> None:
    with pytest.raises(PermissionError, match="needs a token, and none is there: `hf auth login`"):
        find_writer(REPO, None)


def test_a_token_is_found_where_huggingface_hub_keeps_it(writable_hub: WritableHub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(WRITE_TOKEN)
    writer = find_writer(REPO, None)
    assert (writer.token, writer.account) == (WRITE_TOKEN, "me")
    assert WRITE_TOKEN not in f"{writer} {writer!r}"


def test_a_fine_grained_token_is_known_by_its_scopes() -> None:
    from qtoolkit.publishing.token import _may_write

    def of(*permissions: str) -> dict[str, object]:
        return {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": list(permissions)}]}}

    assert _may_write(of("repo.content.read", "repo.write"))
    assert not _may_write(of("repo.content.read"))
    assert not _may_write({"role": "read"}) and _may_write({"role": "write"})
