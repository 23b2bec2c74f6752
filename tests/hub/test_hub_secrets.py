"""What an error of the Hub holds and says: no request with its token, no password of an address, no pasted token."""

import pickle
from collections.abc import Callable, Iterator

import pytest
from huggingface_hub import constants

import qtoolkit as qt
from qtoolkit.tokens import forget
from tests.fake_hub.server import Fault, Hub

TOKEN = "hf_" + "Kd7" * 12
# Not as the Hub's own look.
PASSWORD = "company.gateway.key.0815"  # noqa: S105


def links(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and while what was handled."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_silent(error: BaseException, secret: str) -> None:
    for link in links(error):
        assert secret not in f"{link} {link!r} {vars(link)}"
        assert secret.encode() not in pickle.dumps(link), type(link)


FAULTS = {
    "403": Fault("/api/", status=403),
    "a file": Fault("/resolve/", status=403),
    "echo": Fault("/api/", status=418, headers={"X-Error-Message": TOKEN}, body=TOKEN.encode()),
    "location": Fault("/api/", status=302, headers={"Location": f"http://user:{PASSWORD}@127.0.0.1:9/x?key={TOKEN}"}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("verb", [qt.plan, qt.quantize])
def test_an_error_holds_no_request(hub: Hub, verb: Callable[..., object], fault: Fault) -> None:
    hub.tokens.add(TOKEN)
    hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"0"})
    hub.faults = [fault]
    with pytest.raises(qt.QToolkitError) as caught:
        verb("org/model", "absmax", device="cpu", token=TOKEN)
    assert caught.value.__context__ is not None
    for secret in (TOKEN, PASSWORD):
        assert_silent(caught.value, secret)


@pytest.mark.parametrize("address", ["http://user:{}@{}", "http://user:p@ss{}@{}", "http://{1}/?key={0}"])
def test_a_password_of_the_hubs_address(hub: Hub, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"0"})
    for host in (hub.url.removeprefix("http://"), "127.0.0.1:9"):
        url = address.format(PASSWORD, host)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        # huggingface_hub tells the address of an answer that lacks a header.
        hub.faults = [Fault("/resolve/", status=200)]
        with pytest.raises(qt.QToolkitError) as caught:
            qt.load("org/model", device="cpu")
        assert_silent(caught.value, PASSWORD)
        assert PASSWORD not in str(qt.find_models("org"))


@pytest.mark.parametrize(
    "name",
    [
        *("https://user:{}@huggingface.co/org/m", "https://huggingface.co/org/m?token={}", "org/m:{}", "'{}'", "{},"),
        *("org/m/{}.gguf", "org/m:Q4_0@{}"),
    ],
)
def test_a_token_within_a_name_is_not_sent(hub: Hub, name: str) -> None:
    pasted = name.format(TOKEN)
    for call in (
        lambda: qt.plan(pasted, "absmax"),
        lambda: qt.load("org/m", revision=pasted),
        lambda: qt.find_models(pasted),
        lambda: qt.recommend([pasted]),
    ):
        with pytest.raises(qt.QToolkitError) as caught:
            call()
        assert_silent(caught.value, TOKEN)
    assert hub.requests == []


class Answer:
    """An answer of an HTTP library, whose connection is open."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.headers = {"Authorization": f"Bearer {TOKEN}"}
        self.status_code = 403
        self.is_closed = False
        self._failure = failure

    def close(self) -> None:
        self.is_closed = True
        if self._failure:
            raise self._failure


@pytest.mark.parametrize("failure", [None, OSError("the network is gone")], ids=["closed", "cannot be closed"])
def test_an_answer_that_is_let_go_is_closed(failure: Exception | None) -> None:
    error = ValueError("refused")
    answer = Answer(failure)
    error.response = answer  # type: ignore[attr-defined]
    forget(error)
    assert answer.is_closed
    assert_silent(error, TOKEN)
