"""A pull request to a repository of somebody else: opened once, and its branch holds every file."""

import pytest

from qtoolkit.errors import HubUnreachableError, SourceError
from qtoolkit.publishing.push import Content
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.publishing.pushing import _no_pauses, contents, files, pushed

__all__ = ["_no_pauses", "files"]
THEIRS = "other/tiny"


def assert_proposed(hub: WritableHub, files: dict[str, Content], commit: str | None, address: str | None) -> None:
    """One request is open, and nothing else has changed."""
    repository = hub.repositories[THEIRS]
    assert hub.pull_requests == [(THEIRS, "me")]
    assert address == f"{hub.url}/{THEIRS}/discussions/1"
    assert repository.commits[repository.refs["main"]] == {"config.json": b"old"}
    assert repository.refs["refs/pr/1"] == commit
    assert repository.commits[repository.refs["refs/pr/1"]] == contents(files)


def test_it_leaves_main_alone(any_writable_hub: WritableHub, files: dict[str, Content]) -> None:
    any_writable_hub.add(THEIRS, {"config.json": b"old"})
    commit, address = pushed(files, repo_id=THEIRS, create_pr=True)
    assert_proposed(any_writable_hub, files, commit, address)


@pytest.mark.parametrize("lasting", [False, True], ids=["it comes back", "another call"])
def test_it_is_opened_once_where_its_answer_is_lost(
    writable_hub: WritableHub, files: dict[str, Content], *, lasting: bool
) -> None:
    writable_hub.add(THEIRS, {"config.json": b"old"})
    writable_hub.faults.append(Fault("/commit/", unanswered=True, times=1, lasting=lasting))
    if lasting:
        with pytest.raises(HubUnreachableError):
            pushed(files, repo_id=THEIRS, create_pr=True)
        writable_hub.faults.clear()
    commit, address = pushed(files, repo_id=THEIRS, create_pr=True)
    assert_proposed(writable_hub, files, commit, address)


def test_an_open_one_with_other_files_is_not_taken_for_it(writable_hub: WritableHub, files: dict[str, Content]) -> None:
    writable_hub.add(THEIRS, {"config.json": b"old"})
    pushed({**files, "README.md": b"---\nlicense: mit\n---\n"}, repo_id=THEIRS, create_pr=True)
    _, address = pushed(files, repo_id=THEIRS, create_pr=True)
    assert address == f"{writable_hub.url}/{THEIRS}/discussions/2"


def test_a_token_for_ones_own_repositories_alone_is_refused(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    writable_hub.add(THEIRS, {"config.json": b"old"})
    writable_hub.own_only.add(WRITE_TOKEN)
    with pytest.raises(SourceError, match=r"refuses other/tiny \(403\): give a token that may write to it"):
        pushed(files, repo_id=THEIRS, create_pr=True)
    assert [request for request in writable_hub.requests if request.method == "PUT"] == []
    assert writable_hub.pull_requests == []
