"""The way to the Hub: one commit or none, nothing sent twice, and on again after a lost connection."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from qtoolkit.errors import ConfigError, HubUnreachableError, SourceError
from qtoolkit.publishing import push
from qtoolkit.publishing.push import Content
from qtoolkit.publishing.token import find_writer
from qtoolkit.records import ProgressEvent
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.server import Repository as HubRepository
from tests.fake_hub.writable import WritableHub
from tests.publishing.pushing import REPO, _no_pauses, contents, files, pushed

__all__ = ["_no_pauses", "files"]


def sent(hub: WritableHub) -> list[str]:
    """What came of large files: addresses that name a file, a part of it or a xorb."""
    paths = ("/storage/", "/v1/xorbs/")
    return [request.path for request in hub.requests if request.path.startswith(paths) and request.status == 200]


def test_everything_comes_in_one_commit(any_writable_hub: WritableHub, files: dict[str, Content]) -> None:
    commit, pull_request = pushed(files)
    repository = any_writable_hub.repositories[REPO]
    assert repository.private and repository.refs["main"] == commit and pull_request is None
    assert commit is not None and contents(files).items() <= repository.commits[commit].items()
    assert [title for _, title, _ in any_writable_hub.commits] == ["title"]
    pulled = Path(snapshot_download(REPO, token=WRITE_TOKEN))
    assert {name: (pulled / name).read_bytes() for name in files} == contents(files)


def test_what_is_there_is_not_sent_again(any_writable_hub: WritableHub, files: dict[str, Content]) -> None:
    pushed(files)
    before = sent(any_writable_hub)
    files["README.md"] += b"new"
    pushed(files)
    assert before and sent(any_writable_hub) == before
    assert any_writable_hub.commits[-1][2] == ["README.md"]


def test_after_a_lost_connection_it_goes_on(any_writable_hub: WritableHub, files: dict[str, Content]) -> None:
    any_writable_hub.faults.append(Fault("/commit/", status=503))
    with pytest.raises(HubUnreachableError):
        pushed(files)
    before, repository = sent(any_writable_hub), any_writable_hub.repositories[REPO]
    assert before and list(map(set, repository.commits.values())) == [{".gitattributes"}]
    any_writable_hub.faults.clear()
    pushed(files)
    assert sent(any_writable_hub) == before
    assert len(any_writable_hub.commits) == 1


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("", unanswered=True, times=1), id="no answer"),
        pytest.param(Fault("", status=500, times=2), id="500"),
        pytest.param(Fault("", status=503, times=2), id="503"),
        pytest.param(Fault("", status=409, times=2), id="another commit is in progress"),
        pytest.param(Fault("", pause=0.3), id="slow"),
    ],
)
def test_a_commit_that_stumbles_is_made_once(
    writable_hub: WritableHub, files: dict[str, Content], fault: Fault
) -> None:
    writable_hub.faults.append(replace(fault, path="/commit/"))
    commit, _ = pushed(files)
    assert len(writable_hub.commits) == 1
    assert writable_hub.repositories[REPO].refs["main"] == commit


def test_a_commit_that_comes_after_its_answer_was_given_up_is_found(
    writable_hub: WritableHub, files: dict[str, Content], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub says 504 and works on: nothing is there when it is looked at, and then the commit is refused with 412."""
    writable_hub.faults.append(Fault("/commit/", status=412))
    looked = []

    def after_info(repository: HubRepository) -> None:
        looked.append(repository.refs["main"])
        # Looked at when the repository is opened, and before the commit.
        if len(looked) == 2:
            repository.commit(contents(files))

    monkeypatch.setattr(writable_hub, "after_info", after_info)
    commit, _ = pushed(files)
    assert commit == writable_hub.repositories[REPO].refs["main"] != looked[0]


def test_the_pause_that_the_hub_asks_for_is_kept(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.faults.append(Fault("/commit/", status=429, headers={"Retry-After": "1"}, times=1))
    start = time.monotonic()
    pushed(files)
    assert time.monotonic() - start >= 1
    assert len(writable_hub.commits) == 1


def test_a_commit_in_between_is_not_overwritten(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    def commit_another(event: ProgressEvent) -> None:
        writable_hub.repositories[REPO].commit({"x": b"y"})

    with pytest.raises(SourceError, match="somebody committed to me/tiny meanwhile: look at it, then call again"):
        pushed(files, commit_another)
    assert writable_hub.commits == []


def test_a_branch_of_its_own_is_made(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    made = writable_hub.add(REPO, {"config.json": b"old"}, private=True)
    before = made.refs["main"]
    commit, _ = pushed(files, revision="q4")
    assert (made.refs["main"], made.refs["q4"]) == (before, commit)


def test_weights_that_would_be_left_over_are_refused(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.add(REPO, {"model.safetensors": b"old"}, private=True)
    with pytest.raises(ConfigError, match=r"holds model\.safetensors, which this model has not"):
        pushed(files)


def test_a_public_repository_is_not_taken_for_a_private_one(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    writable_hub.add(REPO, {})
    with pytest.raises(ConfigError, match="me/tiny is public already: give private=False"):
        pushed(files)


@pytest.mark.parametrize("name", ["a.safetensors", "config.json"])
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
