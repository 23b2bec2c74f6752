"""What the Hub refuses is told in one line that says what to do, and no token is ever in it."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from qtoolkit.errors import (
    ConfigError,
    GatedModelError,
    HubUnreachableError,
    ModelNotFoundError,
    OutputError,
    QToolkitError,
    SourceError,
)
from qtoolkit.hub.repository import fetch
from tests.fake_hub.server import Fault, Hub
from tests.hub.hub_models import accept, ignore_progress, single

TOKEN = "hf_VerySecretTokenOfATest"  # noqa: S105
OTHER = "hf_AnotherSecretToken"


def _private(hub: Hub) -> None:
    hub.add("org/model", single(), private=True)


def _gated(hub: Hub) -> None:
    hub.add("org/model", single(), gated=True)


def _failing(status: int, path: str = "/api/models") -> Callable[[Hub], None]:
    def prepare(hub: Hub) -> None:
        hub.add("org/model", single())
        hub.faults = [Fault(path, status=status)]

    return prepare


def _nothing(hub: Hub) -> None:
    pass


@pytest.mark.parametrize("given", ["argument", "environment", "file"])
@pytest.mark.parametrize(
    ("prepare", "error", "told"),
    [
        pytest.param(_nothing, ModelNotFoundError, "no model 'org/model' on URL: .* a private one needs", id="unknown"),
        pytest.param(_gated, GatedModelError, "your token has no access to it: .* at URL/org/model", id="gated"),
        pytest.param(_failing(403), SourceError, r"refuses org/model \(403\): give a token that may read it", id="403"),
        pytest.param(_failing(403, "/resolve/"), SourceError, r"refuses org/model \(403\)", id="403 for a file"),
        pytest.param(_failing(418), SourceError, "answers 418 for org/model", id="418"),
        pytest.param(_failing(429), HubUnreachableError, r"too many requests from here \(429\): wait", id="429"),
        pytest.param(_failing(500), HubUnreachableError, r"down or overloaded \(500\): run it again later", id="500"),
        pytest.param(_failing(200), HubUnreachableError, "answers, but not as the Hub does", id="a login page"),
    ],
)
def test_refused_with_a_token(
    hub: Hub,
    prepare: Callable[[Hub], None],
    error: type[SourceError],
    told: str,
    given: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.tokens = {TOKEN}
    prepare(hub)
    if given == "environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    if given == "file":
        Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    with caplog.at_level(logging.DEBUG), pytest.raises(error) as caught:
        fetch("org/model", token=TOKEN if given == "argument" else None, on_progress=ignore_progress, check=accept)
    _matches(caught.value, told, hub)
    assert {request.token for request in hub.requests if "/org/" in request.path} == {TOKEN}
    everything = [*traceback.format_exception(caught.value), repr(caught.value), caplog.text, *capfd.readouterr()]
    assert TOKEN not in "".join(everything)


@pytest.mark.parametrize(
    ("prepare", "error", "told"),
    [
        pytest.param(_nothing, ModelNotFoundError, "a private one needs a token: `hf auth login`", id="unknown"),
        pytest.param(_private, ModelNotFoundError, "a private one needs a token: `hf auth login`", id="private"),
        pytest.param(_failing(401), ModelNotFoundError, "a private one needs a token: `hf auth login`", id="plain 401"),
        pytest.param(_gated, GatedModelError, "at URL/org/model, then log in with `hf auth login`", id="gated"),
    ],
)
def test_refused_without_a_token(hub: Hub, prepare: Callable[[Hub], None], error: type[SourceError], told: str) -> None:
    prepare(hub)
    with pytest.raises(error) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    _matches(caught.value, told, hub)


def test_an_expired_token_is_told(hub: Hub) -> None:
    hub.add("org/model", single())
    with pytest.raises(SourceError) as caught:
        fetch("org/model", token=OTHER, on_progress=ignore_progress, check=accept)
    _matches(caught.value, r"the Hub does not accept the token \(401\): it is mistyped or expired", hub)


@pytest.mark.parametrize("settings", [{"private": True}, {"gated": True}], ids=["private", "gated"])
def test_a_token_with_access_opens_it(hub: Hub, settings: dict[str, bool]) -> None:
    hub.add("org/model", single(), **settings)
    hub.tokens = hub.granted = {TOKEN}
    assert fetch("org/model", token=TOKEN, on_progress=ignore_progress, check=accept).repo_id == "org/model"


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}\x07", f"{TOKEN}…", ""], ids=ascii)
def test_a_token_that_cannot_be_one_is_refused_unseen(hub: Hub, token: str) -> None:
    with pytest.raises(ConfigError, match="the Hub token is empty or holds") as caught:
        fetch("org/model", token=token, on_progress=ignore_progress, check=accept)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert hub.requests == []


def test_an_unknown_revision_is_told(hub: Hub) -> None:
    hub.add("org/model", single())
    with pytest.raises(ModelNotFoundError) as caught:
        fetch("org/model@v9", on_progress=ignore_progress, check=accept)
    _matches(caught.value, "no revision 'v9': name a branch, tag or commit, see URL/org/model/commits", hub)


def test_a_connection_that_breaks_for_good_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    # huggingface_hub waits a second before each of its attempts.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
    hub.add("org/model", single())
    hub.faults = [Fault(r"/model\.safetensors$", times=1), Fault(r"/model\.safetensors$", cut=0)]
    with pytest.raises(HubUnreachableError) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    _matches(caught.value, "then run it again to go on after the last whole file", hub)
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []


def test_a_cache_that_cannot_be_written_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    hub.add("org/model", single())
    with pytest.raises(OutputError) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    _matches(caught.value, "the Hub cache .* cannot be written .*: set HF_HOME to another folder", hub)


def test_a_password_in_the_address_is_not_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("//", "//user:password@"))
    with pytest.raises(ModelNotFoundError) as caught:
        fetch("org/model", on_progress=ignore_progress, check=accept)
    _matches(caught.value, "on URL: check the name", hub)


def _matches(error: QToolkitError, told: str, hub: Hub) -> None:
    assert "\n" not in str(error)
    # The HTTP library's own, which is not printed.
    assert error.__context__ is not None and error.__suppress_context__
    with pytest.raises(type(error), match=told.replace("URL", hub.url)):
        raise error
