"""What the Hub refuses while a model is pushed is told in one line that says what to do, and no token is ever in it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.utils._xet import abort_xet_session

from qtoolkit.errors import (
    ConfigError,
    DiskFullError,
    GatedModelError,
    HubUnreachableError,
    ModelNotFoundError,
    OutputError,
    QToolkitError,
    SourceError,
)
from qtoolkit.hub.hub_errors import HubUpload, translated
from qtoolkit.publishing.push import Content
from qtoolkit.publishing.token import find_writer
from tests.fake_hub.fixture import WRITE_TOKEN
from tests.fake_hub.server import Fault
from tests.fake_hub.writable import WritableHub
from tests.publishing.pushing import REPO, _no_pauses, files, pushed

__all__ = ["_no_pauses", "files"]

QUOTA = {"X-Error-Message": f"Storage limit of {WRITE_TOKEN} reached. Please upgrade."}
TOO_LARGE = {"X-Error-Message": "The payload is too large"}


def answering(path: str, status: int, headers: dict[str, str] | None = None) -> Fault:
    return Fault(path, status=status, headers=headers or {})


@pytest.mark.parametrize(
    ("fault", "error", "told"),
    [
        pytest.param(
            answering("/repos/create", 401), SourceError, r"does not accept the token \(401\): it is mistyped", id="401"
        ),
        pytest.param(
            answering("/preupload/", 403, QUOTA),
            SourceError,
            r"refuses me/tiny \(403\): give a token that may write to it, see URL/settings/tokens "
            r"\(Storage limit of … reached. Please upgrade\)",
            id="403 before a file",
        ),
        pytest.param(answering("/commit/", 403), SourceError, r"refuses me/tiny \(403\): give", id="403 for a commit"),
        pytest.param(
            answering("/preupload/", 404, {"X-Error-Code": "RepoNotFound"}),
            ModelNotFoundError,
            "no model 'me/tiny' on URL: check the name; a private one needs a token that has access",
            id="404, removed meanwhile",
        ),
        pytest.param(
            answering("/preupload/", 404, {"X-Error-Code": "RevisionNotFound"}),
            ModelNotFoundError,
            "me/tiny has no revision 'main'",
            id="404, branch removed",
        ),
        pytest.param(
            answering("/preupload/", 401, {"X-Error-Code": "GatedRepo"}),
            GatedModelError,
            "me/tiny is gated and your token has no access to it: accept its licence at URL/me/tiny",
            id="gated",
        ),
        pytest.param(
            answering("/commit/", 409),
            HubUnreachableError,
            r"is being committed to \(409\): call again later",
            id="409",
        ),
        pytest.param(
            answering("/commit/", 412), SourceError, "somebody committed to me/tiny meanwhile: look at it", id="412"
        ),
        pytest.param(
            answering("/commit/", 413, TOO_LARGE),
            SourceError,
            r"the Hub answers 413 for me/tiny: see URL/me/tiny \(The payload is too large\)",
            id="413",
        ),
        pytest.param(answering("/commit/", 429), HubUnreachableError, r"too many requests .*\(429\)", id="429"),
        pytest.param(answering("/preupload/", 500), HubUnreachableError, r"down or overloaded \(500\)", id="500"),
        pytest.param(answering("/commit/", 504), HubUnreachableError, r"down or overloaded \(504\)", id="504"),
        pytest.param(answering("/preupload/", 200), HubUnreachableError, "but not as the Hub does", id="a login page"),
    ],
)
def test_refused(
    any_writable_hub: WritableHub,
    files: dict[str, Content],
    fault: Fault,
    error: type[SourceError],
    told: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    any_writable_hub.faults.append(fault)
    with caplog.at_level(logging.INFO), pytest.raises(error) as caught:
        pushed(files)
    matches(caught.value, told, any_writable_hub)
    assert any_writable_hub.commits == []
    shown = [str(caught.value), repr(caught.value), caplog.text, *capfd.readouterr()]
    assert WRITE_TOKEN not in "".join(shown)


STORAGES = pytest.mark.parametrize(
    ("any_writable_hub", "path", "status"),
    [
        ("lfs", "/info/lfs/", 500),
        ("lfs", "/storage/", 403),
        ("lfs", "/storage/", 500),
        ("xet", "/xet-write-token", 403),
        ("xet", "/v1/xorbs/", 403),
        ("xet", "/v1/xorbs/", 500),
        ("xet", "/v1/shards", 503),
    ],
    indirect=["any_writable_hub"],
)


@STORAGES
def test_a_storage_that_refuses_is_told(
    any_writable_hub: WritableHub, files: dict[str, Content], path: str, status: int
) -> None:
    any_writable_hub.faults.append(answering(path, status))
    with pytest.raises(HubUnreachableError) as caught:
        pushed(files)
    told = r"broke off \(.*NUMBER.*\): call again to send what is missing|down or overloaded \(NUMBER\): run it again"
    matches(caught.value, told.replace("NUMBER", str(status)), any_writable_hub)
    assert WRITE_TOKEN not in str(caught.value)


@STORAGES
def test_a_storage_that_refuses_for_a_while_is_asked_again(
    any_writable_hub: WritableHub, files: dict[str, Content], path: str, status: int
) -> None:
    """An address that has expired answers 403 too; another try gets a new one."""
    any_writable_hub.faults.append(replace(answering(path, status), times=2))
    pushed(files)
    assert len(any_writable_hub.commits) == 1


@pytest.mark.parametrize("settings", [{"private": True}, {"gated": True, "private": True}], ids=["private", "gated"])
def test_ones_own_repository_is_written_to(
    writable_hub: WritableHub, files: dict[str, Content], settings: dict[str, bool]
) -> None:
    writable_hub.add(REPO, {}, **settings)
    commit, _ = pushed(files)
    assert writable_hub.repositories[REPO].refs["main"] == commit


def test_a_repository_of_somebody_else_is_refused_before_anything_is_sent(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    writable_hub.add("other/tiny", {}, private=True)
    with pytest.raises(SourceError) as caught:
        pushed(files, repo_id="other/tiny")
    told = (
        r"refuses other/tiny \(403\): give a token that may write to it, see URL/settings/tokens \(.*no right to write"
    )
    matches(caught.value, told, writable_hub)
    assert [request for request in writable_hub.requests if request.method == "PUT"] == []


def test_a_card_that_the_hub_does_not_accept_is_refused_before_anything_is_sent(
    writable_hub: WritableHub, files: dict[str, Content]
) -> None:
    files["README.md"] = b"---\nlicense: my-own\n---\n"
    with pytest.raises(ConfigError, match=r"does not accept the card README\.md .*license.*: correct it"):
        pushed(files)
    assert [request for request in writable_hub.requests if request.method == "PUT"] == []


def test_a_token_that_nobody_knows_is_told(writable_hub: WritableHub) -> None:
    with pytest.raises(SourceError) as caught:
        find_writer(REPO, "hf_unknown")
    matches(caught.value, r"does not accept the token \(401\)", writable_hub)
    assert "hf_unknown" not in str(caught.value)


def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written, by root neither."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "home"))
    abort_xet_session()


def test_hf_xet_without_a_home_is_told(
    any_writable_hub: WritableHub, files: dict[str, Content], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_home(tmp_path, monkeypatch)
    if type(any_writable_hub) is WritableHub:
        # Without hf_xet, nothing is written.
        pushed(files)
        return
    with pytest.raises(OutputError) as caught:
        pushed(files)
    matches(caught.value, r"the Hub cache .*xet cannot be written \(Not a directory\): set HF_HOME", any_writable_hub)
    assert any_writable_hub.commits == []


def test_a_full_disk_of_hf_xet_is_told() -> None:
    with (
        pytest.raises(DiskFullError, match=r"the disk of .*xet is full: free some, or set HF_HOME"),
        translated(HubUpload(REPO, token=WRITE_TOKEN)),
    ):
        raise OSError("I/O error: No space left on device (os error 28)")


def matches(error: QToolkitError, told: str, hub: WritableHub) -> None:
    assert "\n" not in str(error)
    with pytest.raises(type(error), match=told.replace("URL", hub.url)):
        raise error
