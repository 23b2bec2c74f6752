"""On Colab the secret with the token is read when a panel opens: in the cell's thread, the only one that may."""

import sys
import threading
from collections.abc import Callable
from types import ModuleType

import pytest
from huggingface_hub.utils import _auth, _runtime

from qtoolkit.notebook.panels import Panel
from tests.hub.fixture import hub
from tests.hub.server import Hub

__all__ = ["hub"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that asked for the secret, in a package that answers as google.colab does."""
    threads: list[str] = []

    class SecretError(Exception):
        """Colab's own."""

    def get(name: str) -> str:
        threads.append(threading.current_thread().name)
        return "hf_secret"

    userdata, errors = ModuleType("google.colab.userdata"), ModuleType("google.colab.errors")
    vars(userdata).update(get=get, NotebookAccessError=SecretError, SecretNotFoundError=SecretError)
    vars(errors).update(Error=SecretError)
    package = ModuleType("google.colab")
    vars(package).update(userdata=userdata, errors=errors)
    for module in (package, userdata, errors):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(_runtime, "_is_google_colab", True)
    monkeypatch.setattr(_auth, "_IS_GOOGLE_COLAB_CHECKED", False)
    monkeypatch.setattr(_auth, "_GOOGLE_COLAB_SECRET", None)
    return threads


def test_it_is_asked_for_once_and_in_the_main_thread(
    open_panel: Callable[..., Panel], hub: Hub, asked: list[str]
) -> None:
    hub.tokens.add("hf_secret")
    panel = open_panel(only="model")
    panel.model.search.value = "llama"
    panel.model.lookup.wait()
    assert asked == ["MainThread"]
    assert [request.token for request in hub.requests if request.path == "/api/models"] == ["hf_secret"]
